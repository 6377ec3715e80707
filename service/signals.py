"""Being told to stop, for processes that loop: by a signal, without a handler that runs code."""

from __future__ import annotations

import os
import select
import signal


class StopSignal:
    """SIGTERM, SIGINT and SIGHUP, remembered. Made in the main thread, once a process.

    The handler only writes to a pipe: an Event's lock could be held by the code it interrupts.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        os.write(self._writer, b"x")

    def wait(self, seconds: float) -> bool:
        """Wait that long, or until told to stop; whether it was told."""
        readable, _, _ = select.select([self._reader], [], [], seconds)
        return bool(readable)
