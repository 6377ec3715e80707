"""Which isolation this machine offers: the strongest level that proves itself, or none."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import Any

from jobs.errors import NoIsolation
from jobs.graders.sandbox.inside.lockdown import Limits
from jobs.graders.sandbox.launch import layout
from jobs.graders.sandbox.modules import PACKAGES
from jobs.graders.sandbox.process import LEVELS, UNISOLATED, CannotIsolate, Level, Sandbox
from jobs.settings import get_settings

log = logging.getLogger(__name__)

OPT_IN = "HONED_UNSAFE_PYTHON_GRADERS=true"
OPT_IN_FLAG = "honed up --unsafe-python-graders-without-isolation"
_PROBE_LIMITS = Limits(cpu_seconds=5.0, wall_seconds=15.0, memory_mb=512)
# A machine that offered nothing may have been given something since.
_ASK_AGAIN_SECONDS = float(NoIsolation.retry_after_seconds)


@dataclass(frozen=True)
class Isolation:
    """The level in force, as operators and `GET /v1/capabilities` see it."""

    level: str
    reason: str
    landlock_abi: int
    is_sealed: bool
    packages: tuple[str, ...]


class _Chosen:
    """What was found out, once a process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.level: Level | None = None
        self.isolation: Isolation | None = None
        self.refusal = ""
        self.refused_at = float("-inf")


_chosen = _Chosen()


def start(limits: Limits, *, preloaded: Sequence[str] = ()) -> Sandbox:
    """A sandbox at the strongest level that works here. Raises NoIsolation.

    What once worked in this process is never given up for something weaker: a moment without
    memory, or a grader's own limits, must not open the next grader's sandbox.
    """
    level = _chosen.level
    if level is not None:
        try:
            return Sandbox(level, limits, preloaded=preloaded)
        except CannotIsolate as error:
            raise NoIsolation(
                f"Python graders cannot run now: the isolation level {level.name} does not work "
                f"just now: {error}"
            ) from None
    with _chosen.lock:
        return _first_that_works(limits, preloaded)


def isolation() -> Isolation:
    """The level in force. Raises NoIsolation."""
    if _chosen.isolation is None:
        start(_PROBE_LIMITS).close()
    assert _chosen.isolation is not None
    return _chosen.isolation


def forget() -> None:
    """Find out anew at the next start."""
    global _chosen
    _chosen = _Chosen()


def _first_that_works(limits: Limits, preloaded: Sequence[str]) -> Sandbox:
    if time.monotonic() - _chosen.refused_at < _ASK_AGAIN_SECONDS:
        raise NoIsolation(_chosen.refusal)
    tried = []
    for level in LEVELS:
        try:
            sandbox = Sandbox(level, limits, preloaded=preloaded)
        except CannotIsolate as error:
            tried.append(f"{level.name}: {error}")
        else:
            _remember(level, sandbox.report, reason="; ".join(tried))
            return sandbox
    if not get_settings().unsafe_python_graders:
        _chosen.refusal, _chosen.refused_at = _refusal(tried), time.monotonic()
        raise NoIsolation(_chosen.refusal)
    return _unisolated(limits, preloaded, tried)


def _unisolated(limits: Limits, preloaded: Sequence[str], tried: list[str]) -> Sandbox:
    try:
        sandbox = Sandbox(UNISOLATED, limits, preloaded=preloaded)
    except CannotIsolate as error:
        raise NoIsolation(f"Python graders cannot be started: {error}") from None
    reason = f"NO ISOLATION, as {OPT_IN} asked; {'; '.join(tried)}"
    log.warning("USERS' PYTHON GRADERS RUN WITHOUT ISOLATION ON THIS MACHINE: %s", reason)
    _remember(UNISOLATED, sandbox.report, reason=reason)
    return sandbox


def _remember(level: Level, report: dict[str, Any], *, reason: str) -> None:
    _chosen.level = level
    _chosen.isolation = Isolation(
        level=level.name,
        reason=reason or "the strongest level passed its self-test",
        landlock_abi=report["landlock_abi"],
        is_sealed=report["is_sealed"],
        packages=tuple(
            name
            for name, module in PACKAGES.items()
            if PathFinder.find_spec(module, list(layout().path))
        ),
    )


def _refusal(tried: list[str]) -> str:
    return (
        "Python graders are off: this machine offers no isolation that passed its self-test "
        f"({'; '.join(tried)}). Install bubblewrap and allow user namespaces, or run on Linux 5.13 "
        "or newer with Landlock, or allow seccomp filters. The other grader types still work. "
        f"Whoever runs this server can do without isolation by {OPT_IN} ({OPT_IN_FLAG})."
    )
