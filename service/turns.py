"""Work that a request waits for, within a time, and so much of it at once for each project."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

from jobs.errors import TooManyRequests

Result = TypeVar("Result")

# Longer than any one grader may take (a python grader 120 s), shorter than clients wait (600 s).
SECONDS = 180.0
MAX_AT_ONCE = 4
# Those in the line hold a body each and no thread.
MAX_WAITING = 64
WAIT_SECONDS = 30.0
RETRY_AFTER_SECONDS = (2, 10)


class Turns:
    """A place for each request under way, a few a project; those that come later wait in a line.

    Threads and event loops share one. A place that is given back goes to the first in the line.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Waiter]] = {}

    async def begin(self, project_id: str) -> Turn:
        """A turn, once there is a place for it; whoever asked closes it.

        Raises TooManyRequests where the line is full, or none was free in time.
        """
        with self._lock:
            line = self._waiting.setdefault(project_id, deque())
            if len(line) >= MAX_WAITING:
                raise _too_many(f"and {MAX_WAITING} wait for them")
            waiter = _Waiter()
            if self._taken[project_id] < MAX_AT_ONCE:
                self._taken[project_id] += 1
                waiter.has_place = True
            else:
                line.append(waiter)
        try:
            await waiter.wait()
        except asyncio.CancelledError:
            if not self._leave(project_id, waiter):
                self._give_back(project_id)
            raise
        if self._leave(project_id, waiter):
            raise _too_many(f"and none has ended within {WAIT_SECONDS:g} seconds")
        return Turn(lambda: self._give_back(project_id))

    def _leave(self, project_id: str, waiter: _Waiter) -> bool:
        """Whether it leaves without a place: it may have been given one at the last moment."""
        with self._lock:
            line = self._waiting.get(project_id)
            if not waiter.has_place and line is not None:
                line.remove(waiter)
            if not line:
                self._waiting.pop(project_id, None)
            return not waiter.has_place

    def _give_back(self, project_id: str) -> None:
        with self._lock:
            if line := self._waiting.get(project_id):
                line.popleft().give_place()
                return
            self._taken[project_id] -= 1
            if not self._taken[project_id]:
                del self._taken[project_id]


class _Waiter:
    """One request in a line. `has_place` is read and written under the lock of the line."""

    def __init__(self) -> None:
        self.has_place = False
        self._loop = asyncio.get_running_loop()
        self._called = asyncio.Event()

    async def wait(self) -> None:
        """Until a place is given, or the time is over."""
        if not self.has_place:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._called.wait(), WAIT_SECONDS)

    def give_place(self) -> None:
        """From any thread."""
        self.has_place = True
        self._loop.call_soon_threadsafe(self._called.set)


def _too_many(line: str) -> TooManyRequests:
    error = TooManyRequests(
        f"{MAX_AT_ONCE} requests of this project try graders out already, {line}. Try again later, "
        "or send many answers as 'samples' of one request to graders/run."
    )
    # Callers that were turned away together do not come back together.
    error.retry_after_seconds = random.randint(*RETRY_AFTER_SECONDS)
    return error


class Turn:
    """The work of one request; its place is free once the last of it has ended, late or not."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self.ends_at = time.monotonic() + SECONDS
        self._give_back = give_back
        self._lock = threading.Lock()
        self._num_open = 1  # the request itself

    def run(
        self, works: Sequence[Callable[[], Result]], *, num_threads: int = 1
    ) -> list[Future[Result]]:
        """Each work's future: done, or cancelled or running on where the time was over first."""
        threads = ThreadPoolExecutor(num_threads, thread_name_prefix="turn")
        futures = []
        for work in works:
            with self._lock:
                self._num_open += 1
            # In the request's context, so that the log's lines keep its id.
            future = threads.submit(copy_context().run, work)
            future.add_done_callback(lambda _: self.close())
            futures.append(future)
        wait(futures, timeout=max(0.0, self.ends_at - time.monotonic()))
        threads.shutdown(wait=False, cancel_futures=True)
        return futures

    def close(self) -> None:
        """One part less is under way."""
        with self._lock:
            self._num_open -= 1
            is_over = self._num_open == 0
        if is_over:
            self._give_back()
