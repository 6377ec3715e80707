"""`python -m jobs.graders.offload.child MODULE`: a warm process, and a forked child for each call.

The warm process loads the module, gives up what the sandbox's harness gives up, and from then on
only forks, passes bytes on and kills. It never holds a request: the bytes go by splice into a child
that was forked before they came. So a text that a module runs as code finds no other row in its
memory, and what it does to its process is gone before the next row is read.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import NoReturn

from jobs.graders.offload import cage
from jobs.graders.offload.records import (
    MAX_REPLY_BYTES,
    READY_NONCE,
    REQUEST,
    Outcome,
    Status,
    encoded,
    is_reply,
)
from jobs.graders.sandbox.inside.children import Child
from jobs.graders.sandbox.inside.lockdown import (
    MIB,
    ROWS_FD,
    VERDICTS_FD,
    ChildLock,
    Limits,
    lock_harness,
    lower_limit,
)
from jobs.graders.sandbox.inside.pipes import read_exactly

MAX_MEMORY_MB = 4096
# A backstop only: the asker's deadline comes first and kills the warm process with its child.
_MAX_CPU_SECONDS = 120.0
_LIMITS = Limits(cpu_seconds=_MAX_CPU_SECONDS, wall_seconds=0.0, memory_mb=MAX_MEMORY_MB)
_FIRST_FREE_DESCRIPTOR = 10


def main() -> NoReturn:
    """Serve until the asker closes the pipe; the kernel ends this with the asker."""
    null = os.open(os.devnull, os.O_RDWR)
    requests, replies = _above(0), _above(1)
    # What a library prints must not end up among the replies.
    os.dup2(null, 0)
    os.dup2(2, 1)
    lower_limit(resource.RLIMIT_AS, MAX_MEMORY_MB * MIB)
    try:
        module = importlib.import_module(sys.argv[1])
        if (warm := getattr(module, "warm", None)) is not None:
            warm()
        lock = _locked()
    except Exception as error:
        os.write(replies, encoded(READY_NONCE, Status.RAISED, message=_shown(error)))
        os._exit(1)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.write(replies, encoded(READY_NONCE, Status.SCORED))
    _serve(requests, replies, lock, module.run)


def _locked() -> ChildLock:
    """Lock this process as a sandbox's harness is; raises OSError."""
    readable = [*cage.readable(), "/dev/null", "/dev/urandom"]
    config = {"uid": 0, "sealed": False, "landlock": True, "readable": readable, "seccomp": True}
    return ChildLock(lock_harness(config), _LIMITS)


def _serve(requests: int, replies: int, lock: ChildLock, run: Callable[..., Outcome]) -> NoReturn:
    while True:
        child = Child(lock, lambda: _answer(run), cpu_seconds=_MAX_CPU_SECONDS)
        head = read_exactly(requests, REQUEST.size)
        nonce, left = REQUEST.unpack(head)
        try:
            os.write(child.pipes.rows, head)
            while left:
                moved = os.splice(requests, child.pipes.rows, left)
                if not moved:
                    os._exit(0)
                left -= moved
        except BrokenPipeError:  # what it left in the pipe would be the next request's beginning
            os._exit(1)
        reply = os.read(child.pipes.verdicts, MAX_REPLY_BYTES + 1)
        # Dead before the asker hears of it, and so before another row comes.
        death = child.end()
        if not is_reply(reply, nonce):
            reply = encoded(nonce, Status.DIED, message=death)
        os.write(replies, reply)


def _answer(run: Callable[..., Outcome]) -> None:
    """In the child: one request, one reply. Names are bound before a text is looked at."""
    write, pack, shown = os.write, encoded, _shown
    scored, problem, raised = Status.SCORED, Status.PROBLEM, Status.RAISED
    nonce, length = REQUEST.unpack(read_exactly(ROWS_FD, REQUEST.size))
    try:
        found = run(**json.loads(read_exactly(ROWS_FD, length)))
        if found.problem:
            reply = pack(nonce, problem, message=found.problem)
        else:
            reply = pack(nonce, scored, found.score, found.note)
    except Exception as error:  # whatever a library makes of a text that a model wrote
        reply = pack(nonce, raised, message=shown(error))
    write(VERDICTS_FD, reply)


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _above(descriptor: int) -> int:
    """The same file at a number that no child's pipe is given."""
    moved = os.dup(descriptor)
    os.dup2(moved, _FIRST_FREE_DESCRIPTOR + descriptor)
    os.close(moved)
    return _FIRST_FREE_DESCRIPTOR + descriptor


if __name__ == "__main__":
    main()
