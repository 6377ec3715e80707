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
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from jobs.store.attempts import Claim
from worker.slots import Slot

COMMAND = (sys.executable, "-m", "worker.train")
EVIDENCE_LINES = 15


class TrainerProcess:
    """One attempt's process, in a process group of its own."""

    def __init__(self, claimed: Claim, slot: Slot, *, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.last_heard = time.monotonic()
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        env = dict(os.environ)
        if slot.gpu is not None:
            env["CUDA_VISIBLE_DEVICES"] = slot.gpu
        command = [*COMMAND, claimed.job_id, str(claimed.attempt)]
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env,
                pass_fds=(slot.lock_fd,),
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
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
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None when it still runs after that long."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(timeout=5)
        return code

    def kill(self) -> None:
        """End it and everything it started, now."""
        with contextlib.suppress(ProcessLookupError):  # it had ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=5)

    def close(self) -> None:
        """Leave nothing behind: no process, no pipe."""
        if self._process.poll() is None:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a dead process reads no buffered rest
                pipe.close()

    def evidence(self) -> str:
        """The end of its log, for the person who has to find out why it died."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError as error:
            return f"(its log cannot be read: {error})"
        return "\n".join(lines[-EVIDENCE_LINES:])


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name
    hint = " (often the kernel's out-of-memory killer)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
