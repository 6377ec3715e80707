"""Real processes of the service for integration tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def environ(**settings: Any) -> dict[str, str]:
    """This environment with only these HONED_ settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HONED_")}
    return kept | {f"HONED_{key.upper()}": str(value) for key, value in settings.items()}


@contextmanager
def python(*arguments: str, log: Path, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m ...` with its output in a file; killed at the end if it still runs."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=environ(**settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
