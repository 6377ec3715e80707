"""What a worker does about doorbells it does not hear: it looks by itself, and ends when stuck.

Brokers and their clients lose subscriptions, and a consumer that hangs takes nothing any more; a
free slot must not stay idle for that while jobs wait in the database.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import Celery

from jobs.db import DATABASE_AWAY
from jobs.settings import get_settings
from worker.supervise import Supervisor

log = logging.getLogger(__name__)

TICK_SECONDS = 5.0

# Celery waits up to half a minute between two tries to reach the broker.
STUCK_TICKS = 24

# A trainer that was asked to stop saves its state and ends.
RELEASE_SECONDS = 15.0


class Poller:
    """Has the pool look for work that no message told of."""

    def __init__(self, pool: Any, is_stopping: Callable[[], bool]) -> None:
        self._pool = pool
        self._is_stopping = is_stopping
        self._looks: list[Any] = []

    def poll(self) -> None:
        """Send one look, unless as many are under way as there are processes."""
        self._looks = [one for one in self._looks if not one.ready()]
        if len(self._looks) < self._pool.num_processes and not self._is_stopping():
            self._looks.append(self._pool.apply_async(look, (self._is_stopping,)))


def look(is_stopping: Callable[[], bool]) -> None:
    """In a pool process: what the task does, without a message."""
    try:
        Supervisor(get_settings(), is_stopping=is_stopping).drain()
    except DATABASE_AWAY as error:
        log.warning("the database does not answer, looking again soon: %s", error)


def end_with_killed(pool: Any, tell_children: Callable[[], None]) -> None:
    """Have the worker end with exit code 1 when a process of its pool is killed.

    For a pool without an event loop: its processes wait at one queue under one lock, and one that
    is killed while it waits there keeps the lock, so that no other hears anything any more.
    """

    def down(process: Any) -> None:
        if process.exitcode is not None and process.exitcode < 0:
            _end("a process of the pool was killed, and others may wait for it", tell_children)

    pool._pool.on_process_down = down


def _end(reason: str, tell_children: Callable[[], None]) -> None:
    log.critical("%s: ending this worker", reason)
    tell_children()
    time.sleep(RELEASE_SECONDS)
    os._exit(1)


class Watchdog(threading.Thread):
    """Ends the worker with exit code 1 when its consumer stands still though the broker answers.

    Its jobs save their state first and go on elsewhere, or here once it was started again.
    """

    def __init__(self, app: Celery, tell_children: Callable[[], None]) -> None:
        super().__init__(daemon=True, name="watchdog")
        self._app = app
        self._tell_children = tell_children
        self._has_beaten = True

    def beat(self) -> None:
        """Called by the consumer's loop."""
        self._has_beaten = True

    def run(self) -> None:
        missed = 0
        while missed < STUCK_TICKS:
            time.sleep(TICK_SECONDS)
            # Ticks are counted, not seconds: a process that was suspended has missed nothing.
            is_stuck = not self._has_beaten and self._is_broker_there()
            missed = missed + 1 if is_stuck else 0
            self._has_beaten = False
        _end("the consumer stands still though the broker answers", self._tell_children)

    def _is_broker_there(self) -> bool:
        try:
            with self._app.connection_for_read() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        except Exception as error:  # whatever its client raises: the broker cannot be reached
            log.info("the broker does not answer: %s", error)
            return False
        return True
