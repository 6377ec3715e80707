"""What every process of the service checks before it does anything."""

from __future__ import annotations

import ipaddress

from sqlalchemy.exc import SQLAlchemyError

from jobs.db import connect, session_factory
from jobs.errors import SchemaMismatch
from jobs.schema import check_schema
from jobs.settings import Settings
from jobs.store import projects
from service.settings import ServiceSettings


def schema_fault(settings: Settings) -> str | None:
    """Why this code must not touch the database, or None: it fits, or it does not answer yet."""
    engine = connect(settings.sqlalchemy_url)
    try:
        check_schema(engine)
    except SchemaMismatch as error:
        return str(error)
    except SQLAlchemyError:
        return None  # away, not wrong: /readyz and the log say so until it is back
    finally:
        engine.dispose()
    return None


def address_fault(settings: ServiceSettings) -> str | None:
    """Why this server must not listen where it is told to, or None."""
    if is_loopback(settings.host):
        return None
    engine = connect(settings.sqlalchemy_url)
    try:
        with session_factory(engine)() as session:
            if projects.has_live_key(session):
                return None
    except SQLAlchemyError:
        return None  # away: until it is back nobody is let in
    finally:
        engine.dispose()
    return (
        f"Refusing to listen on {settings.host}: no API key exists yet. Make one with "
        "`honed keys create` first."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
