"""How much room a disk has, and whether it is full, told from all else that fails a write."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)

# As libraries that are not Python say it: safetensors and PostgreSQL, and SQLite.
SENTENCES = ("No space left on device", "Disk quota exceeded", "database or disk is full")


def is_full(error: BaseException) -> bool:
    """Return whether an error, or what it came from, says that a disk has no room left."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if any(sentence in str(error) for sentence in SENTENCES):
        return True
    return error.__cause__ is not None and is_full(error.__cause__)


@dataclass(frozen=True)
class Room:
    """Of a disk, in bytes."""

    total: int
    free: int


def room(folder: Path) -> Room:
    """The disk that a folder is on, or will be once it is made."""
    found = shutil.disk_usage(existing(folder))
    return Room(total=found.total, free=found.free)


def existing(folder: Path) -> Path:
    """The folder, or the closest above it that there is."""
    return next(one for one in (folder, *folder.parents) if one.exists())
