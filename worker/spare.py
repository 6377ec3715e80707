"""`python -m worker.spare FD PARENT_PID`: has imported what trainers and validators do, and forks.

Importing takes seconds, forking milliseconds. Each fork serves one job, so its interpreter is one
that no other job has used. Who asks for a process holds a connection to this one: it says how the
process ended, and when it breaks (the supervisor is gone) the process is killed, as it is by the
kernel when this one ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from dataclasses import dataclass, field

from jobs.log import configure
from jobs.settings import Settings
from worker.process_tie import die_with_parent

MODULES = ("worker.train", "worker.validate")

# How a request begins, on the connection: the length of its JSON, and the descriptors beside it.
HEADER_BYTES = 4
MAX_DESCRIPTORS = 8

PR_SET_NAME = 15


@dataclass(frozen=True)
class Request:
    """A process that is asked for: a module's `main`, as `python -m` would run it."""

    module: str
    arguments: list[str]
    environ: dict[str, str]
    descriptors: list[int]
    """Standard input, output and error, then those that it is only to keep open."""

    def become(self) -> None:
        """In the forked process: take on what was asked for."""
        for number, descriptor in enumerate(self.descriptors[:3]):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(self.environ)
        sys.argv = [self.module, *self.arguments]
        if sys.platform == "linux":  # so that it is found by name, as `ps` shows it
            ctypes.CDLL(None).prctl(PR_SET_NAME, self.module.encode(), 0, 0, 0)


@dataclass
class Running:
    """A forked process, and the connection of the one that asked for it."""

    connection: socket.socket
    pid: int
    end: int
    """Readable once the process has ended."""


@dataclass
class Spare:
    """The loop of the waiting process."""

    doorway: socket.socket
    """Where connections come in, one a message."""
    _selector: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)

    def serve(self) -> Request:
        """Fork what is asked for. Returns in the forked processes alone."""
        self._selector.register(self.doorway, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self.doorway:
                    self._welcome()
                elif isinstance(key.data, Running):
                    self._look_after(key.data, has_ended=key.fd == key.data.end)
                elif isinstance(key.fileobj, socket.socket):
                    request = self._fork(key.fileobj)
                    if request is not None:
                        return request

    def _welcome(self) -> None:
        _, descriptors, _, _ = socket.recv_fds(self.doorway, 1, 1)
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            with contextlib.suppress(BrokenPipeError):  # it has waited too long: an end comes next
                connection.sendall(b"!")
            self._selector.register(connection, selectors.EVENT_READ)

    def _fork(self, connection: socket.socket) -> Request | None:
        """The request in the new process; None in this one, or when there was none to read."""
        self._selector.unregister(connection)
        request = _received(connection)
        if request is None:
            connection.close()
            return None
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._leave(connection, parent)
            return request
        for descriptor in request.descriptors:
            os.close(descriptor)
        running = Running(connection, pid, os.pidfd_open(pid))
        self._selector.register(running.end, selectors.EVENT_READ, running)
        self._selector.register(connection, selectors.EVENT_READ, running)
        return None

    def _leave(self, connection: socket.socket, parent: int) -> None:
        """In the forked process: hold nothing of what this one holds."""
        os.setsid()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self._selector.close()
        connection.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)  # it ended before the tie was made

    def _look_after(self, running: Running, *, has_ended: bool) -> None:
        """A process has ended, or who asked for it wants it ended, or is gone."""
        if running.end not in self._selector.get_map():
            return  # both at once: the other one came first
        if not has_ended:
            _kill(running.pid)
        _, status = os.waitpid(running.pid, 0)
        self._selector.unregister(running.end)
        self._selector.unregister(running.connection)
        os.close(running.end)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody asks any more
            running.connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        running.connection.close()


def _received(connection: socket.socket) -> Request | None:
    header, descriptors, _, _ = socket.recv_fds(connection, HEADER_BYTES, MAX_DESCRIPTORS)
    if len(header) < HEADER_BYTES:
        return None
    length, body = int.from_bytes(header), b""
    while len(body) < length:
        piece = connection.recv(length - len(body))
        if not piece:
            return None
        body += piece
    return Request(**json.loads(body), descriptors=list(descriptors))


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # it is not waited for yet, so the number is still its own
    with contextlib.suppress(ProcessLookupError):  # it had no time to make a group of its own
        os.killpg(pid, signal.SIGKILL)


def is_fit_to_fork() -> bool:
    """Whether CUDA can still be used in forked processes: no import may have begun to use it."""
    pid = os.fork()
    if pid == 0:
        cuda = importlib.import_module("torch.cuda")
        os._exit(int(cuda._is_in_bad_fork()))
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Import, then fork until the worker ends."""
    die_with_parent()
    if os.getppid() != int(sys.argv[2]):
        sys.exit("the worker ended before the tie was made")
    # The worker tells its trainers to stop; a signal to all processes must not cut them off.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # Asking whether there is a GPU must not start CUDA here.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    configure("spare", Settings())  # not kept: what it forks reads its own
    doorway = socket.socket(fileno=int(sys.argv[1]))
    for module in MODULES:
        importlib.import_module(module)
    if not is_fit_to_fork():
        sys.exit("An import has started CUDA: trainers are started without a spare process.")
    gc.collect()
    gc.freeze()
    request = Spare(doorway).serve()
    request.become()
    sys.exit(importlib.import_module(request.module).main())


if __name__ == "__main__":
    main()
