"""Folders for what is being written, held by its writer: what the killed left is told apart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Whoever writes does not stand still for so long: the rule for folders of other machines, whose
# locks a shared file system may not show, and of file systems without locks.
ABANDONED_SECONDS = 6 * 3600.0


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A new folder of the caller's own, which is gone afterwards."""
    folder, descriptor = _held(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def clear_abandoned(parent: Path) -> int:
    """Remove what writers left behind that were killed; how many there were."""
    return sum(_cleared(folder) for folder in parent.glob("*"))


def _held(parent: Path) -> tuple[Path, int]:
    """A folder, and the descriptor that holds its lock for as long as this process lives."""
    while True:
        folder = parent / f"{_machine()}.{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        with contextlib.suppress(FileNotFoundError):  # cleared between the two
            descriptor = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # no locks here: its age tells
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)


def _cleared(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False  # its writer has just removed it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_abandoned = folder.name.startswith(f"{_machine()}.") or _is_old(folder)
    except BlockingIOError:
        is_abandoned = False
    except OSError:
        is_abandoned = _is_old(folder)
    try:
        if is_abandoned:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
    return is_abandoned


def _machine() -> str:
    return socket.gethostname().replace(os.sep, "-")


def _is_old(folder: Path) -> bool:
    """By the last change of anything in it."""
    try:
        changed_at = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return False  # it is being removed
    return changed_at < time.time() - ABANDONED_SECONDS
