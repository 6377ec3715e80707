"""Whether a disk is full, told from everything else that can go wrong with a write."""

from __future__ import annotations

import errno

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
