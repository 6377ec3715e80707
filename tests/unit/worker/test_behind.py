"""Writes behind the loop: in order, and never after one that failed."""

import threading

import pytest

from worker.behind import MAX_WAITING, Behind


def test_the_caller_goes_on_and_the_order_is_kept() -> None:
    behind, go_on, done = Behind(), threading.Event(), []
    behind.do(lambda: go_on.wait(10))
    for number in range(MAX_WAITING):
        behind.do(lambda number=number: done.append(number))
    assert done == [], "the caller did not wait"
    go_on.set()
    behind.wait()
    assert done == list(range(MAX_WAITING))


def test_when_too_much_waits_the_caller_waits_too() -> None:
    behind, go_on, is_taken = Behind(), threading.Event(), threading.Event()
    behind.do(lambda: go_on.wait(60))

    def fill() -> None:
        for _ in range(MAX_WAITING + 2):
            behind.do(lambda: None)
        is_taken.set()

    filling = threading.Thread(target=fill)
    filling.start()
    assert not is_taken.wait(0.3)
    go_on.set()
    assert is_taken.wait(60)
    filling.join()
    behind.wait()


def test_after_a_fault_nothing_is_done_and_every_call_says_it() -> None:
    behind, done = Behind(), []

    def fail() -> None:
        raise ConnectionError("the database is away")

    behind.do(fail)
    with pytest.raises(ConnectionError):
        behind.wait()
    for call in (behind.check, behind.wait, lambda: behind.do(lambda: done.append(1))):
        with pytest.raises(ConnectionError, match="away"):
            call()
    assert done == []
