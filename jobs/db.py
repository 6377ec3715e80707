"""Engine, sessions and the database's own clock, for SQLite and PostgreSQL alike."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Double, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql.expression import FunctionElement

from jobs.errors import SchemaMismatch

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


class now(FunctionElement[float]):
    """Unix seconds by the database's clock: leases of several machines need one clock.

    PostgreSQL's `clock_timestamp` runs on inside a transaction, as SQLite's 'now' does.
    """

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def connect(url: str) -> Engine:
    """An engine with what each database needs to be safe under several processes."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, json_serializer=_json)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, json_serializer=_json)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _json(value: Any) -> str:
    """JSON proper: numbers that are none (a metric of an empty set) become null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_with_nulls(value), allow_nan=False)


def _with_nulls(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_nulls(item) for item in value]
    return value


def _prepare_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=15000")
    cursor.execute("PRAGMA foreign_keys=ON")
    # With WAL this survives a killed process whole; FULL would also survive a power cut's last ms.
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after commit: what is returned is what was committed."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def transaction(factory: sessionmaker[Session]) -> Iterator[Session]:
    """One short transaction: commits at the end, rolls back on any error."""
    with factory() as session, session.begin():
        yield session


def alembic_config(url: str) -> Config:
    """Alembic's configuration without a working directory: it also runs from an installed wheel."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def migrate(url: str) -> None:
    """Bring the database to this code's version."""
    command.upgrade(alembic_config(url), "head")


def check_schema(engine: Engine) -> None:
    """Refuse, with a sentence, a database of another version than this code."""
    script = ScriptDirectory.from_config(alembic_config(str(engine.url)))
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    head = script.get_current_head()
    if current == head:
        return
    known = {revision.revision for revision in script.walk_revisions()}
    if current is None or current in known:
        raise SchemaMismatch(
            f"The database is at version {current or 'none'}, this code needs {head}: "
            "run `honed migrate`."
        )
    raise SchemaMismatch(
        f"The database is at version {current}, which this code (version {head}) does not know: "
        "it was migrated by a newer Honed. Update this installation."
    )
