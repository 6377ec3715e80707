"""Signs of life of processes that answer no requests: a file that a working loop keeps touching.

`python -m jobs.alive NAME` is the health check: exit code 1 and a sentence when the last sign of
this machine's process of that name is too old.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from jobs.settings import Settings

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


def beat(settings: Settings, name: str) -> None:
    """Give a sign: called from the loop whose standstill is to be seen, not beside it."""
    path = _file(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def fault(settings: Settings, name: str) -> str | None:
    """Why the process is not well, or None."""
    path = _file(settings, name)
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return f"There has been no sign of {name} of {settings.worker_name} yet."
    if age > STALE_SECONDS:
        return f"The last sign of {name} of {settings.worker_name} was {age:.0f} seconds ago."
    return None


def ages(settings: Settings, name: str) -> dict[str, float]:
    """How many seconds ago each machine's process of that name gave its last sign."""
    found = {}
    for path in sorted(file_of(settings, name, "").parent.glob(f"{name}.*")):
        with suppress(FileNotFoundError):  # it was removed since it was listed
            found[path.name.partition(".")[2]] = time.time() - path.stat().st_mtime
    return found


def file_of(settings: Settings, name: str, machine: str) -> Path:
    """What a machine's process of that name touches: several machines may share the folder."""
    return settings.run_dir / "alive" / f"{name}.{machine}"


def _file(settings: Settings, name: str) -> Path:
    return file_of(settings, name, settings.worker_name)


def main() -> int:
    """Exit code 0 when there was a sign within STALE_SECONDS."""
    found = fault(Settings(), sys.argv[1])
    if found is not None:
        sys.stderr.write(f"{found}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
