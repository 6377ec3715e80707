"""The `honed` command."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.db import migrate as migrate_database
from jobs.log import configure
from service.commands.common import Data, fail, sentences, settings_of
from service.commands.keys import keys_app, projects_app
from service.commands.models import models_app
from service.settings import ServiceSettings
from service.up import first_key
from service.up import up as run_up

# How long a database that is still starting is waited for.
WAIT_SECONDS = 60.0

app = typer.Typer(help="GRPO training as a service.", no_args_is_help=True, add_completion=False)
app.add_typer(keys_app, name="keys")
app.add_typer(projects_app, name="projects")
app.add_typer(models_app, name="models")


@app.command()
def up(
    data: Data = None,
    port: Annotated[int | None, typer.Option(help="[default: HONED_PORT, or 8000]")] = None,
    host: Annotated[str | None, typer.Option(help="[default: HONED_HOST, or 127.0.0.1]")] = None,
    unsafe_python_graders: Annotated[
        bool,
        typer.Option(
            "--unsafe-python-graders-without-isolation",
            help="Run users' Python even where this machine offers no isolation. Dangerous.",
        ),
    ] = False,
) -> None:
    """Run the whole stack on this machine: service, sweeper and worker, until Ctrl-C."""
    with sentences():
        # None leaves it to HONED_UNSAFE_PYTHON_GRADERS.
        settings = settings_of(
            data, port=port, host=host, unsafe_python_graders=unsafe_python_graders or None
        )
        run_up(settings, _say if settings.log_format == "text" else _as_lines(settings))


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
def migrate(
    data: Data = None,
    with_key: Annotated[
        bool,
        typer.Option(
            "--first-key", help="Also make the first API key, in the data folder, if none exists."
        ),
    ] = False,
) -> None:
    """Bring the database to this version's tables."""
    with sentences():
        settings = settings_of(data)
        migrate_database(settings.sqlalchemy_url, wait_seconds=WAIT_SECONDS)
        typer.echo("The database is up to date.")
        if with_key:
            typer.echo(first_key(settings))


def _as_lines(settings: ServiceSettings) -> Callable[[str], None]:
    """What is said in the form of all processes' logs."""
    configure("up", settings)
    return logging.getLogger("honed.up").info


def _say(line: str) -> None:
    with suppress(BrokenPipeError):  # whoever read the output has gone; the stack goes on
        typer.echo(line)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
