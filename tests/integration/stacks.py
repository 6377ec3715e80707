"""`honed up` as a process, and what tests do to it."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from processes import environ
from servers import free_port
from waiting import has_ended, wait_for

LIGHT = (sys.executable, str(Path(__file__).with_name("light_stack.py")))
ROOT = Path(__file__).parents[2]


@dataclass
class Stack:
    folder: Path
    port: int
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if "ready http://" in line:
                return
        raise AssertionError(f"ended with {self.process.wait()} before it was ready: {self.lines}")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, module: str) -> psutil.Process | None:
        for process in psutil.Process(self.process.pid).children():
            if process.cmdline()[1:3] == ["-m", module]:
                return process
        return None

    def get(self, path: str) -> Any:
        key = (self.folder / "key").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)

    def answers(self) -> bool:
        try:
            return bool(self.get("/v1/files")["object"] == "list")
        except (urllib.error.URLError, ConnectionError):
            return False

    def stop(self) -> None:
        """SIGTERM: it must end well and leave nobody."""
        children = self.children()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        wait_for(lambda: all(map(has_ended, children)), seconds=5, what="the children's end")


@contextmanager
def stack(folder: Path, *command: str, **settings: Any) -> Iterator[Stack]:
    """`honed up` without a worker, or the command, ready."""
    port = free_port()
    arguments = command or (*LIGHT, str(folder), str(port))
    process = subprocess.Popen(
        [part.format(port=port) for part in arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environ(sweep_seconds=0.5, **settings) | {"PYTHONPATH": str(ROOT)},
    )
    with process:
        try:
            running = Stack(folder, port, process)
            running.wait_ready()
            yield running
        finally:
            process.kill()
