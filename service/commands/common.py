"""What every part of the `honed` command does alike: settings, one transaction, plain sentences."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from jobs.db import connect, session_factory, transaction
from jobs.errors import SchemaMismatch
from jobs.schema import check_schema
from service.lock import Held
from service.settings import ServiceSettings
from service.up import CannotStart

Data = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder. [default: HONED_DATA_DIR, or .honed]"),
]


def settings_of(data: Path | None, **options: object) -> ServiceSettings:
    """The environment's settings, with the options that were given in their place."""
    given: dict[str, Any] = {"data_dir": data, **options}
    return ServiceSettings(**{key: value for key, value in given.items() if value is not None})


@contextmanager
def database(data: Path | None) -> Iterator[Session]:
    """One transaction on a database of this code's version."""
    engine = connect(settings_of(data).sqlalchemy_url)
    try:
        check_schema(engine)
        with transaction(session_factory(engine)) as session:
            yield session
    finally:
        engine.dispose()


@contextmanager
def sentences() -> Iterator[None]:
    """What a person can act on goes to standard error as one sentence, with exit code 1."""
    try:
        yield
    except (CannotStart, Held, SchemaMismatch) as error:
        fail(str(error))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        fail(f"Setting '{name}' is {first['input']!r}: {first['msg']}.")
    except SQLAlchemyError as error:
        fail(f"The database does not answer: {error}")


def fail(sentence: str) -> NoReturn:
    """End the command with exit code 1 and this on standard error."""
    typer.echo(sentence, err=True)
    raise typer.Exit(1)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows, the first of them the head, in columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def moment(at: float | None) -> str:
    """A time as tables show it."""
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
