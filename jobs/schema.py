"""Which version the database is at, which code may use it, and how it is brought to this one's.

A migration is named by its number. One beside which older code can go on has the oldest such
version in its name too, as `0013_since_0012`: the name is all that older code ever sees of it. Any
other migration is taken to change what the code before it uses.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Double, Engine, Text, column, inspect, select, table

from jobs.db import await_database, connect, now
from jobs.errors import SchemaMismatch

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"

_NAME = re.compile(r"(\d+)(?:_since_(\d+))?")


def alembic_config(url: str) -> Config:
    """Alembic's configuration without a working directory: it also runs from an installed wheel."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def migrate(url: str, *, wait_seconds: float = 0.0, ended: str | None = None) -> None:
    """Bring the database to this code's version, once it answers.

    Raises SchemaMismatch where that is not possible: the database is newer, or it would change what
    workers that hold jobs are using. `ended` is a worker whose processes are known to be gone.
    """
    engine = connect(url)
    try:
        await_database(engine, seconds=wait_seconds)
        current = current_version(engine)
        if current is not None and current not in _known():
            _refuse_newer(current)
            return  # newer, and this code can go on beside it
        breaking = _breaking(current)
        holders = _holders(engine, ended=ended) if breaking else []
    finally:
        engine.dispose()
    if holders:
        raise SchemaMismatch(
            f"Version {breaking[-1]} changes what workers of version {current} use, and these hold "
            f"jobs: {', '.join(holders)}. Stop the workers with SIGTERM (their jobs save their "
            "state and go on afterwards), stop service and sweeper, then run `honed migrate` "
            "again. A worker that is gone lets go of its job by itself when its lease ends."
        )
    command.upgrade(alembic_config(url), "head")


def check_schema(engine: Engine) -> None:
    """Refuse, with a sentence, a database that this code must not use."""
    current, head = current_version(engine), _head()
    if current == head:
        return
    if current is None or current in _known():
        raise SchemaMismatch(
            f"The database is at version {current or 'none'}, this code needs {head}: "
            "run `honed migrate`."
        )
    _refuse_newer(current)


def current_version(engine: Engine) -> str | None:
    """The last migration that the database has had; None before the first."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def oldest_beside(version: str) -> int:
    """The oldest version whose code can go on once the database is at this one."""
    found = _NAME.fullmatch(version)
    if found is None:
        raise ValueError(f"{version!r} is no version: a number, or NUMBER_since_NUMBER")
    return int(found[2] or found[1])


def _refuse_newer(current: str) -> None:
    """Raise SchemaMismatch unless this code can go on beside a version that it does not know."""
    head = _head()
    if _NAME.fullmatch(current) and oldest_beside(current) <= _number(head):
        return
    raise SchemaMismatch(
        f"The database is at version {current}, which this code (version {head}) does not know: "
        "it was migrated by a newer Honed. Update this installation."
    )


def _number(version: str) -> int:
    return int(version.partition("_")[0])


def _breaking(current: str | None) -> list[str]:
    """The migrations to come beside which the code of the current version cannot go on."""
    if current is None:
        return []
    coming = [version for version in _known() if _number(version) > _number(current)]
    return sorted(version for version in coming if oldest_beside(version) > _number(current))


def _holders(engine: Engine, *, ended: str | None) -> list[str]:
    """Workers with a lease that runs, by the columns that the first version has already."""
    if not inspect(engine).has_table("jobs"):
        return []
    owner, expires_at = column("lease_owner", Text), column("lease_expires_at", Double)
    query = select(owner).select_from(table("jobs")).where(expires_at > now()).distinct()
    with engine.connect() as connection:
        owners = sorted(filter(None, connection.scalars(query)))
    return [one for one in owners if one.rpartition(":")[0] != ended]


# Asked once a process: an installation that is updated in place must not make the code that runs
# believe that it is the new one.
@cache
def _known() -> tuple[str, ...]:
    """Every version that this code knows, the newest first."""
    script = ScriptDirectory.from_config(alembic_config(""))
    return tuple(revision.revision for revision in script.walk_revisions())


def _head() -> str:
    return _known()[0]
