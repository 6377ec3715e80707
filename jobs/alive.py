"""Signs of life of processes that answer no requests: a file that a working loop keeps touching.

`python -m jobs.alive NAME` is the health check: exit code 1 and a sentence when the last sign of
this machine's process of that name is too old.
"""

from __future__ import annotations

import sys
import time
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


def _file(settings: Settings, name: str) -> Path:
    # By machine: several may share the folder.
    return settings.run_dir / "alive" / f"{name}.{settings.worker_name}"


def main() -> int:
    """Exit code 0 when there was a sign within STALE_SECONDS."""
    found = fault(Settings(), sys.argv[1])
    if found is not None:
        sys.stderr.write(f"{found}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
