"""Work that the step loop does not wait for: done in order, on one thread behind it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

# More than this and the loop waits: a database that is slow must not let memory fill up.
MAX_WAITING = 8


class Behind:
    """One thread that does what it is given, one after the other.

    What one of them raises is raised by every later call, and nothing after it is done: a row that
    could not be written is not followed by the next.
    """

    def __init__(self) -> None:
        self._waiting: queue.Queue[Callable[[], object]] = queue.Queue(MAX_WAITING)
        self._fault: Exception | None = None
        threading.Thread(target=self._run, daemon=True, name="behind").start()

    def do(self, work: Callable[[], object]) -> None:
        """Have it done behind the caller's back."""
        self.check()
        self._waiting.put(work)

    def check(self) -> None:
        """Raise what an earlier piece of work raised."""
        if self._fault is not None:
            raise self._fault

    def wait(self) -> None:
        """Return once all is done; raises what one of them raised."""
        self._waiting.join()
        self.check()

    def _run(self) -> None:
        while True:
            work = self._waiting.get()
            try:
                if self._fault is None:
                    work()
            except Exception as error:
                self._fault = error
            finally:
                del work
                self._waiting.task_done()
