"""The embedded stack as a user starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from servers import free_port
from user import SAME_BYTES, User


class Stack(User):
    """`honed up` on a folder."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[str]) -> None:
        super().__init__(port, folder / "key")
        self.folder = folder
        self.process = process

    def processes(self, module: str) -> list[psutil.Process]:
        """Descendants of this stack that run `python -m module`, forked ones too."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if module in child.cmdline() or child.name() == module:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found


def start(folder: Path, **environment: str) -> Stack:
    """`honed up` on the folder; returns once it says it is ready."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "up", "--data", str(folder), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **SAME_BYTES, **environment},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready "):
            return Stack(folder, port, process)
    raise AssertionError(f"honed up ended with {process.wait()} before it was ready")


def stop(stack: Stack) -> None:
    """SIGTERM; everything it started must be gone."""
    children = psutil.Process(stack.process.pid).children(recursive=True)
    stack.process.send_signal(signal.SIGTERM)
    try:
        assert stack.process.wait(40) == 0
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == [], "left behind after SIGTERM"
    finally:
        for process in children:
            if process.is_running():
                process.kill()
        stack.process.kill()
        stack.process.wait()
        stack.process.stdout.close()
        stack.client.close()
