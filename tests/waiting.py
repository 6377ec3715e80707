"""Patience: what tests wait for is asked until a deadline, never slept for."""

import time
from collections.abc import Callable
from typing import Any

import psutil


def wait_for(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """The condition's first true value; fails at the deadline with what did not happen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more; who has taken it over may be slow to collect it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
