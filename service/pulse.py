"""Whether the serving process still answers: a child that hangs never ends by itself."""

from __future__ import annotations

import time

import httpx2

from jobs.serving import LIVE_PATH, address
from service.children import Child
from service.settings import ServiceSettings

EVERY_SECONDS = 5.0
TIMEOUT_SECONDS = 2.0
MAX_MISSES = 12
# Libraries and the listener; its first answer comes after them.
START_SECONDS = 60.0


class Pulse:
    """Asks the serving process of this machine now and then, and kills it after some silence."""

    def __init__(self, settings: ServiceSettings, child: Child) -> None:
        self._settings = settings
        self._child = child
        self._num_misses = 0
        self._next_at = 0.0

    def watch(self) -> None:
        """Ask when it is due; it takes TIMEOUT_SECONDS at most."""
        now, started_at = time.monotonic(), self._child.started_at
        if started_at is None or now < started_at + START_SECONDS:
            self._num_misses = 0
            return
        if now < self._next_at:
            return
        self._next_at = now + EVERY_SECONDS
        self._num_misses = 0 if self._is_alive() else self._num_misses + 1
        if self._num_misses >= MAX_MISSES:
            self._num_misses = 0
            self._child.say(
                f"{self._child.command.name} has not answered {MAX_MISSES} times in a row: it is "
                "killed."
            )
            self._child.kill()

    def _is_alive(self) -> bool:
        where = address(self._settings)
        if where is None:
            return False
        try:
            response = httpx2.get(
                f"{where.url}{LIVE_PATH}",
                headers={"Authorization": f"Bearer {where.token}"},
                timeout=TIMEOUT_SECONDS,
                trust_env=False,
                verify=False,
            )
        except httpx2.TransportError:
            return False
        return response.status_code == 200
