"""What HTTP requests came to, counted in this process and written with everybody else's tallies."""

from __future__ import annotations

import asyncio
import logging
import threading

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

from jobs.db import transaction
from jobs.errors import QuotaExceeded
from jobs.monitoring import REFUSALS, REQUEST_SECONDS, REQUESTS
from jobs.store import tallies
from jobs.store.tallies import Tallies

logger = logging.getLogger(__name__)

WRITE_SECONDS = 5.0

# Of these a creation is made later: there is no room, no place or no part that it needs.
TURNED_AWAY = frozenset({429, 503})

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class Traffic:
    """Requests since the last write. What a process that is killed had not written is lost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unwritten = Tallies()

    def note(
        self, *, route: str, method: str, status: int, code: str | None, seconds: float | None
    ) -> None:
        """Count an answer: the route is its pattern, so that there are no more than routes."""
        method = method if method in METHODS else "other"
        with self._lock:
            self._unwritten.count(REQUESTS, route=route, method=method, status=str(status))
            if seconds is not None:
                self._unwritten.observe(REQUEST_SECONDS, seconds, route=route)
            if method == "POST" and (status in TURNED_AWAY or code == QuotaExceeded.code):
                self._unwritten.count(REFUSALS, code=code or "unknown")

    def write(self, sessions: sessionmaker[Session]) -> None:
        """Add them to the tallies; kept for the next time where the database does not take them."""
        with self._lock:
            unwritten, self._unwritten = self._unwritten, Tallies()
        if not unwritten:
            return
        try:
            with transaction(sessions) as session:
                tallies.of(session).merge(unwritten)
        except SQLAlchemyError:
            with self._lock:
                self._unwritten.merge(unwritten)
            raise

    async def keep_written(self, sessions: sessionmaker[Session]) -> None:
        """Write now and then, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.try_to_write(sessions)

    async def try_to_write(self, sessions: sessionmaker[Session]) -> None:
        """Write, or say in the log that it has to wait."""
        try:
            await run_in_threadpool(self.write, sessions)
        except SQLAlchemyError as error:
            logger.warning("requests are counted and cannot be written yet: %s", error)
