"""Sandboxes that start: rows that come together do not wait for one slow start."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sandbox_levels import graded, python, sandbox_of, spare_of, wait_until

from jobs.graders.sandbox import pool, pools
from jobs.graders.sandbox.process import SandboxLost

ONE = "def grade(sample, item):\n    return 1"


class Starts:
    """Real starts that tell when they begin, each of which a test may hold up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_begun = 0
        self.most_at_once = 0
        self.held: list[threading.Event] = []
        self._under_way = 0
        self._lock = threading.Lock()
        self._loaded = pool.loaded_sandbox
        monkeypatch.setattr(pool, "loaded_sandbox", self.loaded)

    def loaded(self, program: pool.Program) -> Any:
        with self._lock:
            place = self.num_begun
            self.num_begun += 1
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            if place < len(self.held):
                assert self.held[place].wait(60)
            return self._loaded(program)
        finally:
            with self._lock:
                self._under_way -= 1


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Starts(monkeypatch)
    yield found
    for event in found.held:
        event.set()
    pools.close_all()


def test_two_rows_start_at_once_and_the_slow_one_holds_up_nobody(starts: Starts) -> None:
    starts.held = [threading.Event()]
    grader = python(ONE)
    with ThreadPoolExecutor(4) as threads:
        slow = threads.submit(graded, grader, "")
        wait_until(lambda: starts.num_begun == 1)
        quick: list[Future[Any]] = [threads.submit(graded, grader, "") for _ in range(3)]
        assert [row.result(30).reward for row in quick] == [1.0] * 3
        assert not slow.done()
        first = sandbox_of(grader)
        starts.held[0].set()
        assert slow.result(30).reward == 1.0
    assert starts.num_begun == starts.most_at_once == 2
    assert sandbox_of(grader) is first
    assert spare_of(grader) is not None, "what started last is kept beside it"


def test_more_rows_than_starts_wait_for_the_first_that_is_ready(starts: Starts) -> None:
    starts.held = [threading.Event(), threading.Event()]
    grader = python(ONE)
    with ThreadPoolExecutor(8) as threads:
        rows = [threads.submit(graded, grader, "") for _ in range(8)]
        wait_until(lambda: starts.num_begun == 2)
        starts.held[1].set()
        wait_until(lambda: sum(row.done() for row in rows) == 7)
        starts.held[0].set()
        assert [row.result(30).reward for row in rows] == [1.0] * 8
    assert starts.num_begun == 2


def test_rows_that_wait_for_a_start_hear_of_the_end(starts: Starts) -> None:
    starts.held = [threading.Event(), threading.Event()]
    grader = python(ONE)
    with (
        pools.borrowed(grader._tenant, grader._program) as held,
        ThreadPoolExecutor(3) as threads,
    ):
        waiting = [threads.submit(lambda: held.loaded) for _ in range(3)]
        wait_until(lambda: starts.num_begun == 2)
        held.close()
        wait_until(lambda: any(row.done() for row in waiting))
        for event in starts.held:
            event.set()
        assert [type(row.exception(30)) for row in waiting] == [SandboxLost] * 3
