"""The embedded stack as the demo uses it: started, awaited, and stopped whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 40


@dataclass(frozen=True)
class Stack:
    base_url: str
    api_key: str


@contextmanager
def embedded_stack(folder: Path) -> Iterator[Stack]:
    """A stack on this data folder and a free port. Raises RuntimeError if it cannot start."""
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "up",
        "--data",
        str(folder),
        "--port",
        str(port),
    ]
    # What it says is read here, as it says it to people.
    environ = {**os.environ, "HONED_LOG_FORMAT": "text"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready "):
                break
        else:
            raise RuntimeError(f"The stack did not start; its logs are in {folder / 'logs'}.")
        key = (folder / "key").read_text().strip()
        yield Stack(base_url=f"http://127.0.0.1:{port}/v1", api_key=key)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
