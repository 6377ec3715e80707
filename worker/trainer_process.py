"""The supervisor's end of a trainer process: start it, hear it, ask it to stop, end it.

The trainer writes one JSON object a line to its standard output (`progress`, then one `outcome`)
and reads requests, a word a line, from its standard input. When that input ends, its supervisor
is gone, and it ends itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from jobs.request_id import REQUEST_ID_VARIABLE
from jobs.store.attempts import Claim
from worker.slots import Slot
from worker.start import start

COMMAND = (sys.executable, "-m", "worker.train")
EVIDENCE_LINES = 15


class TrainerProcess:
    """One attempt's process, in a process group of its own."""

    def __init__(self, claimed: Claim, slot: Slot, *, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.last_heard = time.monotonic()
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        # A CPU slot's trainer sees no GPU: what was counted and forecast is the machine's memory.
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": slot.gpu or ""}
        environ[REQUEST_ID_VARIABLE] = claimed.request_id or ""
        stdin, requests = os.pipe()
        said, stdout = os.pipe()
        self._requests, self._said = os.fdopen(requests, "wb", 0), os.fdopen(said, "rb")
        with os.fdopen(stdin, "rb"), os.fdopen(stdout, "wb"), log.open("ab") as stderr:
            self._process = start(
                [*COMMAND, claimed.job_id, str(claimed.attempt)],
                environ=environ,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr.fileno(),
                keep=(slot.lock_fd,),
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._said:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a library printed: the channel is for whole JSON lines only
            if isinstance(message, dict):
                self._messages.put(message)

    def messages(self) -> list[dict[str, Any]]:
        """What it said since the last call; hearing anything counts as progress."""
        heard = []
        while not self._messages.empty():
            heard.append(self._messages.get())
        if heard:
            self.last_heard = time.monotonic()
        return heard

    def ask(self, request: str) -> None:
        """Send `cancel`, `pause` or `release`; a process that is already gone hears nothing."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(request.encode() + b"\n")

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None when it still runs after that long."""
        code = self._process.wait(seconds)
        if code is not None:
            self._reader.join(timeout=5)
        return code

    def kill(self) -> None:
        """End it and everything it started, now."""
        self._process.kill()
        self._reader.join(timeout=5)

    def close(self) -> None:
        """Leave nothing behind: no process, no pipe."""
        if self._process.wait(0) is None:
            self.kill()
        self._requests.close()
        self._said.close()

    def evidence(self) -> str:
        """The end of its log, for the person who has to find out why it died."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError as error:
            return f"(its log cannot be read: {error})"
        return "\n".join(lines[-EVIDENCE_LINES:])


def describe_exit(code: int) -> str:
    """An exit code in words."""
    return f"exited with code {code}" if code >= 0 else f"was killed by {exit_name(code)}"


def exit_name(code: int) -> str:
    """How a process ended, in a word: `code 1`, or the name of a signal."""
    return f"code {code}" if code >= 0 else signal.Signals(-code).name
