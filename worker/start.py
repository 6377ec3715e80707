"""Starts a process for one job: forked from the spare that has its imports done, or from nothing.

`python -m MODULE` takes seconds to import torch and what stands on it. The worker keeps a process
that has done so (`worker/spare.py`); while there is none, or it does not answer, a process is
started anew, which costs these seconds and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from worker.spare import HEADER_BYTES, MODULES

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "worker.spare")

# A spare that still imports is waited for about as long as importing takes, if a lease allows it.
PATIENCE_SECONDS = 6.0

# A spare that ended, for whatever reason, is replaced; not at once, for it may end again.
RESTART_SECONDS = 10.0


class Process(Protocol):
    """A started process, in a process group of its own."""

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None when it still runs after that long."""
        ...

    def kill(self) -> None:
        """End it and everything it started, now."""
        ...


class Fresh:
    """A process that was started from nothing."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it had ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Forked:
    """A process that the spare has forked, at the other end of a connection to the spare."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._code: int | None = None

    def wait(self, seconds: float) -> int | None:
        if self._code is None and select.select([self._connection], [], [], seconds)[0]:
            self._hear()
        return self._code

    def kill(self) -> None:
        if self._code is None:
            with contextlib.suppress(OSError):  # the spare is gone, and its processes with it
                self._connection.shutdown(socket.SHUT_WR)
            self._hear()

    def _hear(self) -> None:
        try:
            said = self._connection.recv(16)
        except ConnectionResetError:
            said = b""
        # A spare that ends without a word takes its processes with it.
        self._code = int(said) if said else -signal.SIGKILL
        self._connection.close()


class Spares:
    """The worker's end of its spare process: made by the worker, used by its pool processes."""

    def __init__(self) -> None:
        # Both ends are kept here: pool processes, forked later, go on using the entrance whichever
        # spare reads at the doorway.
        self._entrance, self._doorway = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._entrance.setblocking(False)
        self._spare: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    def keep(self) -> None:
        """Start the spare unless it runs; called now and then by the worker's main process."""
        if self._spare is not None and self._spare.poll() is None:
            return
        if self._spare is not None and time.monotonic() - self._started_at < RESTART_SECONDS:
            return
        self._started_at = time.monotonic()
        self._spare = subprocess.Popen(
            [*COMMAND, str(self._doorway.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            pass_fds=(self._doorway.fileno(),),
            start_new_session=True,
        )

    def close(self) -> None:
        """End the spare, and with it every process that it has forked."""
        if self._spare is not None:
            self._spare.kill()
            self._spare.wait()
        self._entrance.close()
        self._doorway.close()

    def fork(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environ: Mapping[str, str],
        descriptors: Sequence[int],
        patience_seconds: float,
    ) -> Forked | None:
        """A process that runs a module; None when no spare answers in time: nothing runs then."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._entrance, [b"!"], [theirs.fileno()])
            ours.settimeout(patience_seconds)
            if not ours.recv(1):
                raise ConnectionResetError
            ours.settimeout(None)
            request = {"module": module, "arguments": [*arguments], "environ": {**environ}}
            body = json.dumps(request).encode()
            socket.send_fds(ours, [len(body).to_bytes(HEADER_BYTES)], descriptors)
            ours.sendall(body)
        except OSError as error:
            ours.close()
            log.warning("the spare process does not answer (%r): starting without it", error)
            return None
        return Forked(ours)


_spares: Spares | None = None


def keep_spare() -> None:
    """Keep a process ready in which imports are done, where processes can be tied to each other."""
    global _spares
    if sys.platform == "linux":
        _spares = _spares or Spares()
        _spares.keep()


def end_spare() -> None:
    """End it and wait for that: a worker that ends leaves no process behind, not for a moment."""
    global _spares
    if _spares is not None:
        _spares.close()
        _spares = None


def start(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    keep: Sequence[int] = (),
    lease_seconds: float,
) -> Process:
    """Run a command with these descriptors; it keeps those of `keep` open while it lives.

    Returns within the first half of the job's lease, which nobody renews meanwhile.
    """
    if _spares is not None and [*command[:2]] == [sys.executable, "-m"] and command[2] in MODULES:
        forked = _spares.fork(
            command[2],
            command[3:],
            environ=environ,
            descriptors=(stdin, stdout, stderr, *keep),
            patience_seconds=min(PATIENCE_SECONDS, lease_seconds / 2),
        )
        if forked is not None:
            return forked
    return Fresh(
        subprocess.Popen(
            command,
            env=dict(environ),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=keep,
            start_new_session=True,
        )
    )
