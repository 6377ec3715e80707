"""The sandbox's process from its first line: imports, the lock, the self-test, the loop."""

from __future__ import annotations

import importlib
import json
import os
import sys

from .attest import leaks
from .children import ask_once
from .harness import Harness, ignore_keyboard
from .loading import Loader
from .lockdown import ChildLock, Limits, lock_harness
from .pipes import read_exactly
from .records import LENGTH
from .runner import send_json

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it would take longer than all the rest
    from typing import Any

_ATTEST_SECONDS = 20.0
_FIRST_FREE_DESCRIPTOR = 10


def main() -> None:
    """Serve one grader; never returns. What goes wrong before `ready` is said on stderr."""
    null = os.open("/dev/null", os.O_RDWR)
    rows, results = _above(os.dup(0)), _above(os.dup(1))
    for descriptor in range(_FIRST_FREE_DESCRIPTOR):
        if descriptor != 2:  # a stray print can never reach the protocol, nor a child's pipe be 3
            os.dup2(null, descriptor)
    null = _above(os.dup(null))
    ignore_keyboard()
    config = _receive(rows)
    sys.path[:] = config["path"]
    notes = _preload(config["preload"])
    limits = Limits(**config["limits"])
    locked = lock_harness(config)
    lock = ChildLock(locked, limits)
    found = _attested(lock, locked, limits) if config["seccomp"] else {}
    _send(
        results,
        {
            "landlock_abi": locked.landlock_abi,
            "is_sealed": locked.is_sealed,
            "uid": os.getuid(),
            "python": sys.version.split()[0],
            "notes": notes + locked.notes,
            "leaks": found,
        },
    )
    os.dup2(null, 2)
    request = _receive(rows)
    loader = Loader(lock, frozenset(config["importable"]))
    code, report = loader.load(request["source"])
    _send(results, report)
    if code is None:
        os._exit(0)
    Harness(rows, results, null, lock=lock, limits=limits).serve(
        code,
        request["source"].split("\n"),
        parallel=config["parallel"],
        calls_per_process=1 if report["text_runs"] else request["calls_per_process"],
    )


def _above(descriptor: int) -> int:
    """The same file at a number that no child's pipe is given."""
    moved = os.dup(descriptor)
    held = []
    while moved < _FIRST_FREE_DESCRIPTOR:
        held.append(moved)
        moved = os.dup(descriptor)
    for one in [*held, descriptor]:
        os.close(one)
    return moved


def _preload(names: list[str]) -> list[str]:
    notes = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            notes.append(f"{name}: {error!r}")
    return notes


def _attested(lock: ChildLock, locked: Any, limits: Limits) -> dict[str, str]:
    harness = os.getpid()
    answer, death = ask_once(
        lock, lambda: send_json(leaks(harness, locked, limits)), seconds=_ATTEST_SECONDS
    )
    try:
        found: dict[str, str] = json.loads(answer[LENGTH.size :])
    except ValueError:
        return {"the self-test": death}
    return found


def _receive(descriptor: int) -> dict[str, Any]:
    (length,) = LENGTH.unpack(read_exactly(descriptor, LENGTH.size))
    document: dict[str, Any] = json.loads(read_exactly(descriptor, length))
    return document


def _send(descriptor: int, document: dict[str, Any]) -> None:
    text = json.dumps(document).encode()
    os.write(descriptor, LENGTH.pack(len(text)) + text)


def start() -> None:
    """The launcher's entry: the reason of a failure on stderr, before anything is locked away."""
    try:
        main()
    except Exception as error:
        os.write(2, f"{type(error).__name__}: {error}".encode()[:800])
        os._exit(1)
