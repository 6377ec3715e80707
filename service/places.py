"""So many things at once in all, and fewer of each project: none can fill what all share."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.errors import TooManyRequests, Unavailable


class Overloaded(Unavailable):
    """This process has as much under way as it may."""

    code = "overloaded"
    retry_after_seconds = 2


class Places:
    """Counts what is under way in this process. `what` is what there are too many of."""

    def __init__(self, what: str, *, a_project: int, in_all: int | None = None) -> None:
        self._what = what
        self._a_project = a_project
        self._in_all = in_all
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, project_id: str) -> Iterator[None]:
        """A place for as long as the block lasts. Raises TooManyRequests, or Overloaded."""
        self._take(project_id)
        try:
            yield
        finally:
            with self._lock:
                self._taken[project_id] -= 1
                if not self._taken[project_id]:
                    del self._taken[project_id]

    def _take(self, project_id: str) -> None:
        with self._lock:
            if self._taken[project_id] >= self._a_project:
                raise TooManyRequests(
                    f"{self._a_project} {self._what} of this project are under way, as many as "
                    "may be. Try again in a moment, or send fewer at once."
                )
            if self._in_all is not None and self._taken.total() >= self._in_all:
                raise Overloaded(
                    f"{self._in_all} {self._what} are under way on this server, as many as may "
                    "be. Try again in a moment."
                )
            self._taken[project_id] += 1
