"""Engine, sessions and the database's own clock, for SQLite and PostgreSQL alike."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Double, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql.expression import FunctionElement

# What a database that is away, restarts or cuts a connection raises, the last of the three where it
# ends a transaction that stood still: asking again may help.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError)

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0

# No process may hold the others up: one that is suspended inside a transaction, or whose machine
# is gone, loses its locks within seconds, and who waits for a lock is told so rather than kept.
POSTGRESQL_SETTINGS = "-c lock_timeout=5000 -c idle_in_transaction_session_timeout=20000"
POSTGRESQL_CONNECTION: dict[str, Any] = {
    "application_name": "honed",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15000,
}

# The advisory lock under which PostgreSQL is migrated: any number that nothing else here uses.
MIGRATION_LOCK = 0x686F6E6564


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
        return create_engine(
            _with_psycopg(parsed),
            pool_pre_ping=True,
            json_serializer=as_json,
            connect_args=_postgresql_arguments(parsed),
        )
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, json_serializer=as_json)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _postgresql_arguments(url: URL) -> dict[str, Any]:
    """Arguments of the driver; what the operator wrote into the URL goes first."""
    arguments = {
        name: value for name, value in POSTGRESQL_CONNECTION.items() if name not in url.query
    }
    return {**arguments, "options": f"{POSTGRESQL_SETTINGS} {url.query.get('options', '')}"}


def _with_psycopg(url: URL) -> URL:
    """`postgresql://` as every tool writes it, by the driver that is installed here."""
    is_plain = url.drivername in ("postgres", "postgresql")
    return url.set(drivername="postgresql+psycopg") if is_plain else url


def as_json(value: Any) -> str:
    """What a column of JSON stores, in ASCII.

    Numbers that are none (a metric of an empty set) become null.
    """
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


def await_database(engine: Engine, *, seconds: float = math.inf) -> None:
    """Return once the database answers; after that many seconds its error is raised.

    Only a server is waited for: SQLite is a file, which no waiting brings.
    """
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            with engine.connect():
                return
        except DATABASE_AWAY as error:
            if engine.dialect.name == "sqlite" or time.monotonic() > give_up_at:
                raise
            log.warning("the database does not answer, waiting for it: %s", error.orig)
            time.sleep(RETRY_SECONDS)
