"""Folders for what is on its way: gone with their block, or after their process was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """An empty folder in `root`. What killed processes left there is removed first."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / uuid.uuid4().hex
    with _locked(root):
        _clear(root)
        folder.mkdir()
        held = os.open(folder, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def clear(root: Path) -> int:
    """Remove the folders whose processes have ended, however they did; how many there were."""
    if not root.is_dir():
        return 0
    with _locked(root):
        return _clear(root)


def _clear(root: Path) -> int:
    num_removed = 0
    for folder in root.glob("*/"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            num_removed += 1
    return num_removed


def _is_abandoned(folder: Path) -> bool:
    """The kernel lets go of a lock with the process that holds it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False  # its own process was faster
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """While a folder is made and not locked yet, nobody clears."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
