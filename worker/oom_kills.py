"""Whether the kernel's out-of-memory killer was at work: its counts, of this process's cgroup.

The supervisor and its trainer are in one memory cgroup, which counts each of its processes that
was killed for memory, whoever's limit it was. Where no cgroup can be read it is the machine's
count.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

# A killed process takes a while to be gone: its memory is given back first.
WINDOW_SECONDS = 30.0


class OomKills:
    """The count as it was a moment ago and as it is, for who watches a process."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._counter = next(filter(_holds_a_count, _candidates(root)), None)
        self._readings: deque[tuple[float, int]] = deque()
        self.look()

    def look(self) -> None:
        """Read the count; called now and then."""
        at = time.monotonic()
        self._readings.append((at, _count(self._counter) if self._counter is not None else 0))
        while len(self._readings) > 2 and self._readings[1][0] < at - WINDOW_SECONDS:
            self._readings.popleft()

    def have_risen(self) -> bool:
        """Whether a process was killed for memory within the last moments."""
        self.look()
        return self._readings[-1][1] > self._readings[0][1]


def _candidates(root: Path) -> Iterator[Path]:
    """Files that may hold the count, the one that is closest to this process first."""
    mounts = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        # In a container the path may be one that only the host sees: its cgroup is the mount.
        for folder in (path.lstrip("/"), ""):
            if not controllers:  # version 2, alone or beside version 1
                yield mounts / folder / "memory.events"
                yield mounts / "unified" / folder / "memory.events"
            elif "memory" in controllers.split(","):
                yield mounts / "memory" / folder / "memory.oom_control"
    yield root / "proc/vmstat"


def _holds_a_count(path: Path) -> bool:
    return any(line.startswith("oom_kill ") for line in _lines(path))


def _count(path: Path) -> int:
    found = [line for line in _lines(path) if line.startswith("oom_kill ")]
    return int(found[0].split()[1]) if found else 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
