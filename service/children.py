"""Child processes of `honed up`: started, watched, restarted with patience, and ended for sure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

# A child that lived this long starts again at once when it ends.
STEADY_SECONDS = 60.0

# Between TERM and KILL: a trainer saves its state, an idle Celery worker takes 8 seconds.
STOP_SECONDS = 15.0

MAX_LOG_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Command:
    """What one child runs."""

    name: str
    argv: Sequence[str]
    wanted: Path | None = None
    """A file that must exist before it starts for the first time; None starts it at once."""


@dataclass
class Child:
    """One child and its restarts. Made by the main thread: a tie to a parent is to its thread."""

    command: Command
    environ: Mapping[str, str]
    log: Path
    lock_descriptor: int
    """Inherited, so that the lock on it is held until the last of them has ended."""
    say: Callable[[str], None]

    _process: subprocess.Popen[bytes] | None = None
    _started_at: float = 0.0
    _start_at: float = field(default_factory=time.monotonic)
    _num_failures: int = 0

    def watch(self) -> None:
        """Start it when it is due; when it has ended, say so and plan the next start."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at and self._is_wanted():
                self._start(now)
            return
        code = self._process.poll()
        if code is None:
            return
        # What it left behind must not run beside its successor.
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process = None
        was_steady = now - self._started_at > STEADY_SECONDS
        self._num_failures = 1 if was_steady else self._num_failures + 1
        delay = BACKOFF_SECONDS[min(self._num_failures, len(BACKOFF_SECONDS)) - 1]
        self._start_at = now + delay
        self.say(
            f"{self.command.name} ended ({_how(code)}); it starts again in {delay:g} s. "
            f"Its log: {self.log}"
        )

    def _is_wanted(self) -> bool:
        return self.command.wanted is None or self.command.wanted.exists()

    def _start(self, now: float) -> None:
        tether = [sys.executable, "-m", "service.tether", str(os.getpid())]
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*tether, *self.command.argv],
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=(self.lock_descriptor,),
            )
        self._started_at = now

    def terminate(self) -> None:
        """Ask it to end: its main process only, which ends its own children in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    @property
    def started_at(self) -> float | None:
        """By the monotonic clock; None while it does not run."""
        return None if self._process is None else self._started_at

    def kill(self) -> None:
        """End it at once: `watch` then starts it again."""
        if self._process is not None and self._process.poll() is None:
            _signal_group(self._process.pid, signal.SIGKILL)

    def finish(self, deadline: float) -> None:
        """Wait for its end until the deadline, then end the whole group."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.say(f"{self.command.name} does not end by itself; it is killed.")
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None


def stop_all(children: Sequence[Child]) -> None:
    """End every child: TERM to each, then STOP_SECONDS for all of them, then KILL."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        child.finish(deadline)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass  # nobody of it is left
    except PermissionError:
        pass  # macOS: only zombies are left


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
