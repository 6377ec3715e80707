"""The pools of this process: one a tenant and program, few at a time, closed when idle."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from jobs.graders.sandbox.answers import TooManyGraders
from jobs.graders.sandbox.pool import Pool, Program

MAX_POOLS = 8
IDLE_SECONDS = 300.0
_BUSY_SECONDS = 60.0
_SWEEP_SECONDS = 30.0

# Whose graders are parsed here: the project of the request, or that of the job.
_tenant: ContextVar[str | None] = ContextVar("tenant", default=None)


class NobodysGrader(RuntimeError):
    """A grader was parsed outside `on_behalf_of`, and nobody's code is run. A fault of ours."""


@dataclass
class _Entry:
    pool: Pool
    users: int = 0
    used_at: float = 0.0


_changed = threading.Condition()
_entries: dict[tuple[str, Program], _Entry] = {}
_sweeper: threading.Thread | None = None


@contextmanager
def on_behalf_of(tenant: str) -> Iterator[None]:
    """Graders parsed inside share no sandbox with those of another tenant.

    Those parsed outside can be looked at, and run nothing.
    """
    if not tenant:
        raise NobodysGrader("a tenant has a name")
    token = _tenant.set(tenant)
    try:
        yield
    finally:
        _tenant.reset(token)


def current_tenant() -> str | None:
    """Whose graders are parsed here, or None."""
    return _tenant.get()


@contextmanager
def borrowed(tenant: str | None, program: Program) -> Iterator[Pool]:
    """The program's pool, which stays open as long as it is held.

    Raises TooManyGraders, and NobodysGrader without a tenant.
    """
    if tenant is None:
        raise NobodysGrader("this python grader was parsed outside on_behalf_of")
    entry = _taken((tenant, program))
    try:
        yield entry.pool
    finally:
        with _changed:
            entry.users -= 1
            entry.used_at = time.monotonic()
            _changed.notify_all()


def close_all() -> None:
    """End every sandbox of this process."""
    with _changed:
        closing = [entry.pool for entry in _entries.values()]
        _entries.clear()
        _changed.notify_all()
    for pool in closing:
        pool.close()


def _taken(key: tuple[str, Program]) -> _Entry:
    """The key's entry, made where there is none; the longest idle one makes room."""
    evicted = None
    with _changed:
        deadline = time.monotonic() + _BUSY_SECONDS
        while key not in _entries and len(_entries) >= MAX_POOLS:
            if evicted := _longest_idle():
                break
            if not _changed.wait(deadline - time.monotonic()):
                raise TooManyGraders(
                    f"All {MAX_POOLS} places for python graders on this machine are in use. Try "
                    "again in a few seconds."
                )
        entry = _entries.setdefault(key, _Entry(Pool(key[1])))
        entry.users += 1
        _start_sweeping()
    if evicted is not None:
        evicted.close()
    return entry


def _longest_idle() -> Pool | None:
    idle = [(entry.used_at, key) for key, entry in _entries.items() if not entry.users]
    if not idle:
        return None
    _, key = min(idle, key=lambda one: one[0])
    return _entries.pop(key).pool


def _start_sweeping() -> None:
    global _sweeper
    if _sweeper is None:
        _sweeper = threading.Thread(target=_sweep, name="sandbox-sweeper", daemon=True)
        _sweeper.start()


def _sweep() -> None:
    while True:
        time.sleep(_SWEEP_SECONDS)
        oldest = time.monotonic() - IDLE_SECONDS
        with _changed:
            idle = [k for k, e in _entries.items() if not e.users and e.used_at < oldest]
            closing = [_entries.pop(key).pool for key in idle]
        for pool in closing:
            pool.close()


atexit.register(close_all)
