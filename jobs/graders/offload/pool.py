"""Worker processes that run this package's modules: one call at a time each, killed when late.

Not multiprocessing: its children import the parent's main module again, which in a trainer is all
of torch, and a thread cannot be told to stop inside C code. A process here is a plain
`python -m jobs.graders.offload.child MODULE`, kept warm, that forks a child for each call.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import selectors
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.graders.offload import cage
from jobs.graders.offload.records import (
    MAX_MESSAGE_BYTES,
    READY_NONCE,
    REPLY,
    REQUEST,
    Outcome,
    Reply,
    Status,
)

CHILD = "jobs.graders.offload.child"
START_SECONDS = 60.0
QUEUE_SECONDS = 120.0
MAX_PROCESSES = 4


class OffloadFailed(Exception):
    """The call raised in its process; the message is what it raised."""


class OffloadTimeout(Exception):
    """The call did not end in time, and its process was killed; or it died under it."""


class Offload:
    """A few processes a module, started when first needed and kept; they die with this one.

    Calls of several threads share them: whoever finds none free waits.
    """

    package = "jobs.graders.offload"

    def __init__(self, num_processes: int | None = None) -> None:
        self.num_processes = num_processes or max(1, min(MAX_PROCESSES, _num_cores() // 2))
        # By module. None is a place for a process that is not running yet.
        self._free: dict[str, queue.LifoQueue[_Process | None]] = {}
        # The kernel ends children with the *thread* that started them, so one stays for that.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="offload-starter")
        self._lock = threading.Lock()
        self._running: set[_Process] = set()
        self._is_closed = False

    def call(self, module: str, *, seconds: float, **arguments: Any) -> Outcome:
        """`jobs.graders.offload.<module>.run(**arguments)`, which are passed as JSON.

        The time counts from when a process that has imported the module takes the call. Raises
        OffloadFailed, OffloadTimeout.
        """
        payload = json.dumps(arguments).encode()
        free = self._places(module)
        try:
            process = free.get(timeout=QUEUE_SECONDS)
        except queue.Empty:
            message = f"no process was free within {QUEUE_SECONDS:g} seconds"
            raise OffloadTimeout(message) from None
        try:
            if process is None or not process.is_alive():
                process = self._started(module, in_place_of=process)
            reply = process.call(payload, seconds)
        except BaseException:  # an answer may still come, which would be the next call's
            self._end(process)
            process = None
            raise
        finally:
            free.put(process)
        return _outcome(reply)

    def _places(self, module: str) -> queue.LifoQueue[_Process | None]:
        with self._lock:
            if module not in self._free:
                places = self._free[module] = queue.LifoQueue()
                for _ in range(self.num_processes):
                    places.put(None)
            return self._free[module]

    def _started(self, module: str, *, in_place_of: _Process | None) -> _Process:
        self._end(in_place_of)
        try:
            process = self._starter.submit(_Process, f"{self.package}.{module}").result()
        except (RuntimeError, OSError) as error:  # shut down, or no memory for another
            raise OffloadTimeout(f"its process could not be started: {error}") from None
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._running.add(process)
        try:
            if is_closed:
                raise OffloadTimeout("this process is ending")
            process.await_ready()
        except (OffloadTimeout, OffloadFailed):
            self._end(process)
            raise
        return process

    def _end(self, process: _Process | None) -> None:
        """By whoever holds it: nobody else reads its pipes."""
        if process is not None:
            with self._lock:
                self._running.discard(process)
            process.close()

    def close(self) -> None:
        """Kill every process; calls under way fail, and close the pipes that they use."""
        with self._lock:
            self._is_closed = True
            running, places = set(self._running), list(self._free.values())
        for process in running:
            process.kill()
        for free in places:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._end(free.get_nowait())
            for _ in range(self.num_processes):  # whoever waits shall hear of the end
                free.put(None)
        self._starter.shutdown(wait=False)


def _outcome(reply: Reply) -> Outcome:
    match reply.status:
        case Status.SCORED:
            return Outcome(reply.score, note=reply.message)
        case Status.PROBLEM:
            return Outcome(problem=reply.message or "the reason is not known")
        case Status.RAISED:
            raise OffloadFailed(reply.message)
        case _:
            raise OffloadTimeout(f"its process died, often for want of memory: {reply.message}")


class _Process:
    """One warm process and the two pipes to it."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            cage.command(CHILD, module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=cage.environment(),
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def await_ready(self) -> None:
        """Until its module is loaded. Raises OffloadFailed, OffloadTimeout."""
        _outcome(self._reply(READY_NONCE, time.monotonic() + START_SECONDS, START_SECONDS))

    def call(self, payload: bytes, seconds: float) -> Reply:
        """The reply to one request. Raises OffloadTimeout when the process is of no more use."""
        nonce, deadline = secrets.randbits(64), time.monotonic() + seconds
        rest = memoryview(REQUEST.pack(nonce, len(payload)) + payload)
        stdin = self._process.stdin
        assert stdin is not None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(stdin, selectors.EVENT_WRITE)
                while rest:
                    _wait(selector, deadline, seconds)
                    rest = rest[os.write(stdin.fileno(), rest) :]
        except BrokenPipeError:
            raise OffloadTimeout("its process died") from None
        return self._reply(nonce, deadline, seconds)

    def _reply(self, nonce: int, deadline: float, seconds: float) -> Reply:
        head = self._exactly(REPLY.size, deadline, seconds)
        found, status, score, num_bytes = REPLY.unpack(head)
        if found != nonce or num_bytes > MAX_MESSAGE_BYTES:
            raise OffloadTimeout("its process answered something else")
        message = self._exactly(num_bytes, deadline, seconds).decode("utf-8", "replace")
        return Reply(Status(status), score, message)

    def _exactly(self, count: int, deadline: float, seconds: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        parts = []
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while count:
                _wait(selector, deadline, seconds)
                part = os.read(stdout.fileno(), count)
                if not part:
                    raise OffloadTimeout("its process died, often for want of memory")
                parts.append(part)
                count -= len(part)
        return b"".join(parts)

    def kill(self) -> None:
        """End it and its child; may be called twice, and while another thread waits for it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """As `kill`, and give its pipes back: only for the thread that uses them."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def _wait(selector: selectors.BaseSelector, deadline: float, seconds: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not selector.select(left):
        raise OffloadTimeout(f"it took longer than {seconds:g} seconds")


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
