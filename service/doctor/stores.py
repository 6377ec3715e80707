"""What a stack keeps things in and hears through: database, broker, artifacts, free space."""

from __future__ import annotations

import errno
import tempfile
import uuid
from contextlib import ExitStack, closing
from pathlib import Path

from kombu.utils.url import maybe_sanitize_url
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from jobs import disk
from jobs.artifacts import Damaged, open_store
from jobs.db import connect
from jobs.errors import SchemaMismatch, StoreAway
from jobs.schema import check_schema, current_version
from service.doctor.checkup import Finding, fail, ok, warn
from service.doorbell import Doorbell
from service.settings import ServiceSettings

GIB = 1024**3
TOO_LITTLE_BYTES = 1 * GIB
LITTLE_BYTES = 5 * GIB


def database(settings: ServiceSettings) -> Finding:
    """It answers, is of this code's version, and takes writes."""
    try:
        url = make_url(settings.sqlalchemy_url)
    except ArgumentError:
        return fail(
            "HONED_DATABASE_URL is no database's URL.",
            "Write it as postgresql://user:password@host/database, or leave it out for SQLite.",
        )
    if is_missing(settings):
        return fail(
            f"There is no database {url.database} yet.",
            "Run `honed up` or `honed migrate`, or name the data folder that has one by --data.",
        )
    shown = url.render_as_string(hide_password=True)
    engine = connect(settings.sqlalchemy_url)
    try:
        check_schema(engine)
        with engine.connect() as connection, connection.begin() as transaction:
            connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
            transaction.rollback()
        version = current_version(engine)
    except SchemaMismatch as error:
        return fail(str(error), "Bring database and installation to the same version.")
    except SQLAlchemyError as error:
        return _database_fault(shown, str(getattr(error, "orig", error)).strip())
    finally:
        engine.dispose()
    return ok(f"{shown} answers, is at version {version} and takes writes.")


def is_missing(settings: ServiceSettings) -> bool:
    """Whether the database is a file that nobody has made: to connect would make an empty one."""
    url = make_url(settings.sqlalchemy_url)
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()


def _database_fault(shown: str, said: str) -> Finding:
    if disk.is_full(Exception(said)):
        return fail(f"{shown} cannot be written: {said}", "Make room on the database's disk.")
    if "read-only" in said or "readonly" in said:
        return fail(
            f"{shown} cannot be written: {said}",
            "Name the primary server, or give this user the right to write the file.",
        )
    return fail(
        f"{shown} does not answer: {said}",
        "Start it, or correct HONED_DATABASE_URL. Meanwhile the service answers 503, and jobs "
        "that run go on for as long as their lease (HONED_LEASE_SECONDS) lasts.",
    )


def broker(settings: ServiceSettings) -> Finding:
    """It takes doorbells."""
    is_folder = settings.broker_url.startswith("filesystem://")
    shown = str(settings.broker_dir) if is_folder else maybe_sanitize_url(settings.broker_url)
    mend = (
        "Start it, or correct HONED_BROKER_URL. Meanwhile nothing is lost: workers look for jobs "
        f"by themselves every {settings.poll_seconds:g} seconds (HONED_POLL_SECONDS)."
    )
    try:
        doorbell = Doorbell(settings)
        try:
            fault = doorbell.fault()
        finally:
            doorbell.close()
    except OSError as error:
        return fail(f"{shown}: {error}", f"Let this user write {settings.broker_dir}.")
    except (KeyError, ImportError, ValueError) as error:
        return fail(
            f"HONED_BROKER_URL={shown} names no broker that is installed: {error}",
            "Write it as redis://:password@host:6379/0, or leave it out.",
        )
    return ok(f"{shown} takes messages.") if fault is None else fail(f"{shown}: {fault}", mend)


def artifact_store(settings: ServiceSettings) -> Finding:
    """What is published can be read back as it was written, and removed."""
    shown = settings.artifacts_url or settings.artifacts_dir
    relative = f"doctor-{uuid.uuid4().hex}"
    mend = (
        "Start it, or correct HONED_ARTIFACTS_URL, its endpoint and credentials (docs/storage.md). "
        "Jobs wait meanwhile and go on by themselves."
    )
    with closing(open_store(settings)) as store:
        if (fault := store.fault()) is not None:
            return fail(f"{shown} cannot be used: {fault}", mend)
        try:
            with ExitStack() as held:
                held.callback(store.remove, relative)
                store.publish(relative, lambda here: _write(here / "probe"))
                held.enter_context(store.checkpoint(relative))
        except Damaged as damaged:
            return fail(
                f"What was written to {shown} came back changed: {damaged}.",
                "Check the disk, or the network share, that it is on.",
            )
        except StoreAway as away:
            return fail(f"{shown} cannot be used: {away.reason}", mend)
        except OSError as error:
            return _artifacts_fault(settings, error)
    return ok(f"{shown} can be written, read and cleared.")


def _write(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 256)


def _artifacts_fault(settings: ServiceSettings, error: OSError) -> Finding:
    if disk.is_full(error):
        mend = "Make room on its disk: jobs wait as `disk_full` until then and go on by themselves."
    elif error.errno == errno.EROFS:
        mend = "Mount it so that it can be written."
    else:
        mend = (
            "Let the user that runs service and workers write it, or set HONED_DATA_DIR to a "
            "folder that it may."
        )
    is_away = bool(settings.artifacts_url)
    folder = settings.artifacts_cache_dir if is_away else settings.artifacts_dir
    return fail(f"{folder} cannot be used: {error}", mend)


def free_space(settings: ServiceSettings) -> Finding:
    """The data folder's disk and the one for temporary files have room, in bytes and in files."""
    told = []
    for folder in (settings.data_dir, Path(tempfile.gettempdir())):
        free = disk.room(folder).free
        shown = f"{free / GIB:.1f} GiB free at {folder}"
        mend = (
            f"Make room at {folder}, or move HONED_DATA_DIR to a larger disk: checkpoints are "
            "written there while jobs run. Jobs that meet a full disk wait and lose nothing."
        )
        if free < TOO_LITTLE_BYTES:
            return fail(f"Only {shown}.", mend)
        if free < LITTLE_BYTES:
            return warn(f"Only {shown}.", mend)
        told.append(shown)
    return ok(f"{', '.join(told)}.")
