"""`python -m worker`: a Celery worker with a process for each slot and one that is always free."""

from __future__ import annotations

import sys

from jobs.db import await_database, check_schema, connect
from jobs.devices import DevicesUnknown, num_slots
from jobs.doorbell import QUEUE
from jobs.errors import SchemaMismatch
from jobs.log import configure, refuse
from jobs.settings import get_settings
from worker.app import app
from worker.start import end_spare, keep_spare


def main() -> int:
    """Work until a signal; 1 when it cannot: the database, or what counts the GPUs."""
    settings = get_settings()
    configure("worker", settings)
    try:
        _check_schema()
        slots = num_slots()
    except (SchemaMismatch, DevicesUnknown) as fault:
        refuse(str(fault), settings)
        return 1
    keep_spare()  # before the pool's processes, which inherit the way to it
    # A slot's process is busy for as long as a job runs; the extra one validates new jobs' files.
    try:
        app.worker_main(
            [
                # Its banner is for people.
                *(["--quiet"] if settings.log_format == "json" else []),
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
    finally:
        end_spare()
    return 0


def _check_schema() -> None:
    """Raises SchemaMismatch where this code must not touch the database; waits while it is away."""
    # Before Celery: what a handler of its signals raises is logged, and the worker starts anyway.
    engine = connect(get_settings().sqlalchemy_url)
    try:
        await_database(engine)
        check_schema(engine)
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
