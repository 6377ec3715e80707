"""`python -m worker`: a Celery worker with a process for each slot and one that is always free."""

from __future__ import annotations

import sys
import tempfile
from multiprocessing.util import _run_finalizers  # type: ignore[attr-defined]

from jobs import scratch
from jobs.db import await_database, connect, session_factory, transaction
from jobs.devices import DevicesUnknown, num_slots
from jobs.doorbell import QUEUE
from jobs.errors import SchemaMismatch
from jobs.log import configure, refuse
from jobs.schema import check_schema
from jobs.settings import get_settings
from jobs.store import devices
from worker.app import app
from worker.start import end_spare, keep_spare


def main() -> int:
    """Work until a signal; 1 when it cannot: the database, or what counts the GPUs."""
    settings = get_settings()
    configure("worker", settings)
    try:
        _check_in()
        slots = num_slots()
    except (SchemaMismatch, DevicesUnknown) as fault:
        refuse(str(fault), settings)
        return 1
    keep_spare()  # before the pool's processes, which inherit the way to it
    # What its pool of processes needs a folder for stays behind where this one is killed.
    left = get_settings().run_dir / "tmp"
    scratch.clear_abandoned(left)
    try:
        with scratch.scratch(left) as folder:
            tempfile.tempdir = str(folder)
            try:
                _work(slots)
            finally:
                # Else they run after the folder is gone, and say that it is.
                _run_finalizers()
    finally:
        end_spare()
    return 0


def _work(slots: int) -> None:
    # A slot's process is busy for as long as a job runs; the extra one validates new jobs' files.
    app.worker_main(
        [
            # Its banner is for people.
            *(["--quiet"] if get_settings().log_format == "json" else []),
            "worker",
            "--pool=prefork",
            f"--concurrency={slots + 1}",
            f"--queues={QUEUE}",
            "--loglevel=info",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )


def _check_in() -> None:
    """Tell the database that the worker starts; waits while it is away.

    Raises SchemaMismatch where this code must not touch it.
    """
    # Before Celery: what a handler of its signals raises is logged, and the worker starts anyway.
    engine = connect(get_settings().sqlalchemy_url)
    try:
        await_database(engine)
        check_schema(engine)
        with transaction(session_factory(engine)) as session:
            devices.test_at_once(session, get_settings().worker_name)
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
