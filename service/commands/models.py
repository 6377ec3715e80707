"""`honed models`: the base models of a machine that runs a worker, listed and fetched."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import typer

from service.commands.common import fail, table

models_app = typer.Typer(help="List and fetch base models.", no_args_is_help=True)

# A process of the worker's side: this one does without what the worker extra brings.
COMMAND = (sys.executable, "-m", "worker.models")


@models_app.command("list")
def list_models() -> None:
    """Show the models that are on this machine: the starter, listed folders, the hub's cache."""
    done = subprocess.run([*_command(), "list"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise typer.Exit(1)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    head = ("name", "revision", "size", "where")
    shown = [(row["name"], row["revision"], _size(row["bytes"]), row["where"]) for row in rows]
    table([head, *shown])


@models_app.command("pull")
def pull_model(name: str) -> None:
    """Fetch a hub's `org/name` or `org/name@revision` into this machine's cache."""
    raise typer.Exit(subprocess.run([*_command(), "pull", name], check=False).returncode)


def _command() -> tuple[str, ...]:
    if find_spec("huggingface_hub") is None:
        fail('Models live where workers run: pip install "honed[worker]" here.')
    return COMMAND


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
