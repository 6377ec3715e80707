"""A checkup: every check at the same time, none waited for longer than its limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from service.settings import ServiceSettings

# What a sandbox may take to start on a busy machine, and more than any server is waited for.
LIMIT_SECONDS = 30.0

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What a check found, in a sentence, and what to do about it."""

    status: Status
    found: str
    mend: str | None = None
    """None where there is nothing to do."""


@dataclass(frozen=True)
class Check:
    """One thing to look at. Whatever `look` raises is found to be wrong."""

    name: str
    look: Callable[[ServiceSettings], Finding]


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warn(found: str, mend: str) -> Finding:
    """Something to know, by which nothing is broken."""
    return Finding("warn", found, mend)


def fail(found: str, mend: str) -> Finding:
    return Finding("fail", found, mend)


def examine(
    settings: ServiceSettings, checks: Sequence[Check], *, limit_seconds: float = LIMIT_SECONDS
) -> dict[str, Finding]:
    """What each check found, by its name. One that hangs is left behind: end the process soon."""
    found: dict[str, Finding] = {}
    threads = [
        threading.Thread(target=_look, args=(check, settings, found), daemon=True)
        for check in checks
    ]
    for thread in threads:
        thread.start()
    give_up_at = time.monotonic() + limit_seconds
    for thread in threads:
        thread.join(max(0.0, give_up_at - time.monotonic()))
    hangs = fail(
        f"It did not answer within {limit_seconds:g} seconds.",
        "Something that it stands on hangs: a network file system, a server that takes "
        "connections and says nothing, a device's driver. Look there.",
    )
    return {check.name: found.get(check.name, hangs) for check in checks}


def _look(check: Check, settings: ServiceSettings, found: dict[str, Finding]) -> None:
    try:
        found[check.name] = check.look(settings)
    except Exception as error:  # a checkup goes on whatever is broken
        found[check.name] = fail(
            f"{type(error).__name__}: {error}",
            "That is not among what is known to go wrong here; the message says where to look.",
        )
