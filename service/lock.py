"""One `honed up` per data folder: locks that the kernel lets go of when their holders end."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

LEFTOVER_SECONDS = 20.0


class Held(Exception):
    """Somebody else holds the lock; the message says who and what to do."""


@dataclass(frozen=True)
class Holding:
    """A lock held; a child that inherits the descriptor holds it too."""

    descriptor: int


@contextmanager
def hold_alone(path: Path, folder: Path) -> Iterator[Holding]:
    """Hold a lock that no child inherits. Raises Held when another `up` has it."""
    with _opened(path) as descriptor:
        if not _try(descriptor):
            raise Held(f"Another `honed up` runs on {folder}: stop it, or use another --data.")
        yield Holding(descriptor)


@contextmanager
def hold_with_children(path: Path, say: Callable[[str], None]) -> Iterator[Holding]:
    """Hold the lock that children inherit, once the children of an earlier run have ended.

    They end by themselves, as a stop would make them; those that do not are killed.
    """
    with _opened(path) as descriptor:
        if not _try(descriptor):
            say("waiting for processes of an earlier run to end")
            deadline = time.monotonic() + LEFTOVER_SECONDS
            while not _try(descriptor):
                if time.monotonic() > deadline:
                    _kill_holders(path, say)
                time.sleep(0.1)
        yield Holding(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kill_holders(path: Path, say: Callable[[str], None]) -> None:
    """Kill who has the lock's file open: only what an `up` on this folder started has it."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if any(Path(file.path) == path for file in process.open_files()):
                say(f"killing process {process.pid} of an earlier run")
                process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue  # it ended meanwhile, or belongs to another user
