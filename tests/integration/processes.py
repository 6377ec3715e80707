"""Real processes of the service for integration tests, and patience for what they do."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """The condition's first true value, asked until the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


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
