"""One sandbox: its process, the pipe to it, and the thread that hears its results."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from jobs.graders.sandbox import launch, modules
from jobs.graders.sandbox.answers import Loaded, SandboxLost, Verdict, printable
from jobs.graders.sandbox.inside.lockdown import Limits
from jobs.graders.sandbox.inside.records import (
    LENGTH,
    MAX_MESSAGE_BYTES,
    MAX_SCORES,
    RESULT,
    ROW,
    Kind,
    Status,
    scores_format,
)

PARALLEL = 2
MAX_ROW_BYTES = 64 * 1024 * 1024
_START_SECONDS = 60.0
_LOAD_SECONDS = 90.0
# Beyond its own limits a harness that says nothing for so long is no longer one.
_GRACE_SECONDS = 15.0
_MAX_HANDSHAKE_BYTES = 1 << 20


@dataclass(frozen=True)
class Level:
    """One way to isolate; a stronger one is tried before a weaker."""

    name: str
    has_bubblewrap: bool
    has_landlock: bool
    is_sealed: bool
    has_seccomp: bool = True

    @property
    def needs_landlock(self) -> bool:
        """Bubblewrap's empty root does alone what Landlock then does once more."""
        return self.has_landlock and not self.has_bubblewrap


LEVELS = (
    Level("bwrap", has_bubblewrap=True, has_landlock=True, is_sealed=False),
    Level("landlock", has_bubblewrap=False, has_landlock=True, is_sealed=False),
    Level("sealed", has_bubblewrap=False, has_landlock=False, is_sealed=True),
)
UNISOLATED = Level(
    "none", has_bubblewrap=False, has_landlock=False, is_sealed=False, has_seccomp=False
)


class CannotIsolate(Exception):
    """This level does not work here; the message says why."""


class Sandbox:
    """A started, locked, self-tested process. Threads may share one; `close` it."""

    def __init__(self, level: Level, limits: Limits, *, preloaded: Sequence[str] = ()) -> None:
        """Start it. Raises CannotIsolate."""
        self.level = level
        self.limits = limits
        self.loaded = Loaded()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Verdict]] = {}  # in the order of their rows
        self._next_row = 0
        self._heard_at = time.monotonic()
        self._is_closed = False
        self._hearer: threading.Thread | None = None
        try:
            self._process = launch.spawn(with_bubblewrap=level.has_bubblewrap)
        except OSError as error:
            raise CannotIsolate(str(error)) from None
        self.report = self._handshake(preloaded)

    def _handshake(self, preloaded: Sequence[str]) -> dict[str, Any]:
        try:
            self._send(self._config(preloaded))
            report = self._receive(_START_SECONDS)
        except (OSError, EOFError, ValueError) as error:
            self.kill()
            reason = self._stderr() or str(error)
            self.close()
            raise CannotIsolate(reason) from None
        fault = ""
        if report["leaks"]:
            found = "; ".join(f"{name}: {how}" for name, how in report["leaks"].items())
            fault = f"the self-test could {found}"
        elif self.level.needs_landlock and not report["landlock_abi"]:
            fault = "this kernel has no Landlock, or refuses it"
        if fault:
            self.close()
            raise CannotIsolate(printable(fault))
        return report

    def _config(self, preloaded: Sequence[str]) -> dict[str, Any]:
        layout = launch.layout()
        # Elsewhere the lock may close the standard library too (see `is_sealed`).
        early = () if self.level.has_bubblewrap else modules.PRELOADED
        return {
            "limits": self.limits._asdict(),
            "path": layout.path,
            "readable": layout.readable,
            "uid": launch.NOBODY,
            "landlock": self.level.has_landlock,
            "seccomp": self.level.has_seccomp,
            "sealed": self.level.is_sealed,
            "preload": [*early, *preloaded],
            "importable": modules.IMPORTABLE,
            "parallel": PARALLEL,
        }

    def load(self, source: str, *, calls_per_process: int) -> dict[str, Any]:
        """Compile and check a source: `error` is empty when rows may come. Raises SandboxLost."""
        try:
            self._send({"source": source, "calls_per_process": calls_per_process})
            report = self._receive(_LOAD_SECONDS)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise SandboxLost(
                f"The sandbox died while it loaded the grader: {error}.", was_running=False
            ) from None
        if report["error"]:
            self.close()
        else:
            self.loaded = Loaded.of(report)
            self._hearer = threading.Thread(target=self._hear, name="sandbox-ear", daemon=True)
            self._hearer.start()
        return report

    def submit(self, kind: Kind, payload: bytes, *, wanted: int) -> Future[Verdict]:
        """Grade one row (JSON of the call's two arguments); the future raises SandboxLost."""
        future: Future[Verdict] = Future()
        nonce = secrets.randbits(64)
        with self._lock:
            if self._is_closed:
                raise SandboxLost(was_running=False)
            row_id = self._next_row = (self._next_row + 1) & 0xFFFFFFFF
            if not self._waiting:
                self._heard_at = time.monotonic()
            self._waiting[row_id] = future
            try:
                self._write(ROW.pack(kind, row_id, nonce, wanted, len(payload)) + payload)
            except OSError:
                self.kill()  # the thread that hears the end answers every row
        return future

    @property
    def is_alive(self) -> bool:
        return not self._is_closed and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it and all that is in it, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it; rows still waiting are answered by SandboxLost."""
        self._is_closed = True
        self.kill()
        self._process.wait()
        # A descriptor closed under the feet of its reader or writer may be another file's next.
        if self._hearer is not None and self._hearer is not threading.current_thread():
            self._hearer.join()
        with self._lock:
            self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _hear(self) -> None:
        try:
            while True:
                head = self._exactly(RESULT.size, deadline=None)
                row_id, status, ran_text, micros, num_scores, num_bytes = RESULT.unpack(head)
                if num_scores > MAX_SCORES or num_bytes > MAX_MESSAGE_BYTES:
                    raise ValueError("a result of impossible size")
                scores = self._exactly(8 * num_scores, deadline=None)
                message = self._exactly(num_bytes, deadline=None)
                verdict = Verdict(
                    status=Status(status),
                    scores=scores_format(num_scores).unpack(scores),
                    message=printable(message.decode("utf-8", "replace")),
                    seconds=micros / 1e6,
                    ran_text=bool(ran_text),
                )
                with self._lock:
                    self._heard_at = time.monotonic()
                    future = self._waiting.pop(row_id)
                future.set_result(verdict)
        except (OSError, EOFError, ValueError, KeyError):
            self._abandon()

    def _abandon(self) -> None:
        self._is_closed = True
        self.kill()  # before the lock: a writer may hold it, blocked on a pipe that nobody reads
        with self._lock:
            lost = list(self._waiting.values())
            self._waiting.clear()
        # A row is taken up in the order of coming, so only the first could be in a child's hands.
        for place, future in enumerate(lost):
            future.set_exception(SandboxLost(was_running=place < PARALLEL))

    def _is_overdue(self) -> bool:
        patience = self.limits.wall_seconds + _GRACE_SECONDS
        return bool(self._waiting) and time.monotonic() - self._heard_at > patience

    def _exactly(self, count: int, *, deadline: float | None) -> bytes:
        """That many bytes from the process; raises EOFError, or OSError past the deadline."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        parts = []
        while count:
            readable, _, _ = select.select([descriptor], [], [], 1.0)
            if not readable:
                is_late = deadline is not None and time.monotonic() > deadline
                if is_late or self._is_overdue():
                    raise TimeoutError("it does not answer")
                continue
            part = os.read(descriptor, min(count, 1 << 16))
            if not part:
                raise EOFError("it ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline=deadline))
        if length > _MAX_HANDSHAKE_BYTES:
            raise ValueError("an answer of impossible size")
        document: dict[str, Any] = json.loads(self._exactly(length, deadline=deadline))
        return document

    def _send(self, document: dict[str, Any]) -> None:
        text = json.dumps(document).encode()
        self._write(LENGTH.pack(len(text)) + text)

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        descriptor, rest = self._process.stdin.fileno(), memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def _stderr(self) -> str:
        """What the process said before it ended."""
        assert self._process.stderr is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        os.set_blocking(self._process.stderr.fileno(), False)
        said = self._process.stderr.read(4000) or b""
        return printable(said.decode("utf-8", "replace").strip()[-400:])
