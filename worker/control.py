"""The trainer's end of the pipe to its supervisor: what it says, what it is asked, when it ends."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from worker.gpu_memory import gpu_memory
from worker.grpo.errors import Interrupted
from worker.grpo.resident import peak_resident_bytes
from worker.process_tie import die_with_parent

SAY_SECONDS = 0.5


class Control:
    """Reads requests on a thread of its own; the loop asks `interrupt()` wherever it can stop."""

    def __init__(self) -> None:
        # Whatever a library prints must not end up in the channel.
        self._out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self.request: str | None = None
        self._said_at = 0.0
        self._phase = ""
        die_with_parent()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.request = line.strip()
        # The supervisor is gone, and with it the lease: nothing this process does counts any more.
        os._exit(1)

    def interrupt(self) -> None:
        """Raise Interrupted when the attempt was asked to stop."""
        if self.request is not None:
            raise Interrupted(f"asked to {self.request}")

    def progress(self, phase: str, done: int, total: int, **more: Any) -> None:
        """Say where the attempt stands; often called, seldom said."""
        now = time.monotonic()
        if phase == self._phase and now - self._said_at < SAY_SECONDS:
            return
        self._phase, self._said_at = phase, now
        # What it has held is said for the case that it is killed.
        held: dict[str, Any] = {"peak_bytes": peak_resident_bytes()}
        if (gpu := gpu_memory()) is not None:
            held["gpu"] = gpu
        self._say({"phase": phase, "done": done, "total": total, **held, **more})

    def outcome(self, outcome: str, **more: Any) -> None:
        """Say the last word."""
        self._say({"outcome": outcome, **more})

    def _say(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()
