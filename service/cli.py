"""The `honed` command."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.db import migrate as migrate_database
from service.commands.common import Data, fail, sentences, settings_of
from service.commands.keys import keys_app, projects_app
from service.commands.models import models_app
from service.up import up as run_up

app = typer.Typer(help="GRPO training as a service.", no_args_is_help=True, add_completion=False)
app.add_typer(keys_app, name="keys")
app.add_typer(projects_app, name="projects")
app.add_typer(models_app, name="models")


@app.command()
def up(
    data: Data = None,
    port: Annotated[int | None, typer.Option(help="[default: HONED_PORT, or 8000]")] = None,
    host: Annotated[str | None, typer.Option(help="[default: HONED_HOST, or 127.0.0.1]")] = None,
) -> None:
    """Run the whole stack on this machine: service, sweeper and worker, until Ctrl-C."""
    with sentences():
        run_up(settings_of(data, port=port, host=host), _say)


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option(help="Emptied at the start; the adapter stays there.")
    ] = Path(".honed/demo"),
    reward: Annotated[
        str, typer.Option(help="What to pay for: answer, length, blocklist or mixed.")
    ] = "answer",
    proof: Annotated[
        bool, typer.Option("--proof", help="Show that the reward is a constant in the loss.")
    ] = False,
) -> None:
    """Train the starter model through the whole service, and show what it learned."""
    try:
        # The demo is a client with extras of its own: the service does without them.
        from service.demo import compare, rewards, run  # noqa: PLC0415
        from service.demo.proof import proof as run_proof  # noqa: PLC0415
    except ModuleNotFoundError as error:
        fail(f'The demo needs {error.name}: pip install "honed[worker,demo]"')
    if reward not in rewards.REWARDS:
        fail(f"--reward is {reward!r}; it is one of {', '.join(rewards.REWARDS)}.")
    chosen = rewards.REWARDS[rewards.Name(reward)]
    course = run_proof if proof else run.run
    try:
        result = course(folder.resolve(), Console(), reward=chosen)
    except compare.DemoFailed as failure:
        fail(str(failure))
    typer.echo(json.dumps(result))


@app.command()
def migrate(data: Data = None) -> None:
    """Bring the database to this version's tables."""
    with sentences():
        migrate_database(settings_of(data).sqlalchemy_url)
    typer.echo("The database is up to date.")


def _say(line: str) -> None:
    with suppress(BrokenPipeError):  # whoever read the output has gone; the stack goes on
        typer.echo(line)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
