"""run_code: a completion's code in a process of its own, with neither labels nor a verdict.

    grading child --source--> helper --fork--> locked child runs it
                  <--JSON----        <--JSON--

The helper is forked before the grading child reads its row, so nothing of the row is in it, and it
runs no user's code itself. What comes back is the completion's word: JSON to be checked.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import sys
from collections import namedtuple
from collections.abc import Callable

from .children import ask_once
from .lockdown import ChildLock, prctl
from .pipes import read_exactly
from .records import LENGTH
from .runner import described, send_json

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it would take longer than all the rest
    from typing import Any, NoReturn

# The helper's ends, and those of the grading child, which has rows and verdicts before them.
_REQUESTS, _ANSWERS = 3, 4
REQUESTS_FD, ANSWERS_FD = 5, 6
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_MAX_ANSWER_BYTES = 1 << 20
_MAX_STDOUT_CHARS = 100_000
_GRACE_SECONDS = 5.0

CodeResult = namedtuple("CodeResult", "ok value stdout error")


def fork_helper(lock: ChildLock) -> tuple[int, int]:
    """Start a helper; the descriptors for requests to it and for its answers."""
    requests_read, requests_write = os.pipe()
    answers_read, answers_write = os.pipe()
    if os.fork() == 0:
        try:
            prctl(_PR_SET_PDEATHSIG, _SIGKILL)
            lock.keep([requests_read, answers_write])
            _serve(lock)
        except BaseException:
            os._exit(70)
    os.close(requests_read)
    os.close(answers_write)
    return requests_write, answers_read


def run_code(
    source: str, *, call: str | None = None, args: Any = (), stdin: str = "", seconds: float = 5.0
) -> Any:
    """Run a text as Python elsewhere: an expression has a value, other code has `call`'s.

    `value`, and `args`, are JSON. `ok` is False where it raised, took too long or died; then
    `error` says how.
    """
    request = {
        "source": str(source),
        "call": call,
        "args": list(args),
        "stdin": stdin,
        "seconds": float(seconds),
    }
    text = json.dumps(request).encode()
    rest = memoryview(LENGTH.pack(len(text)) + text)
    while rest:
        rest = rest[os.write(REQUESTS_FD, rest) :]
    poller = select.poll()
    poller.register(ANSWERS_FD, select.POLLIN)
    if not poller.poll((seconds + _GRACE_SECONDS) * 1000):
        raise TimeoutError("run_code: no answer")
    answer = json.loads(_received(ANSWERS_FD))
    return CodeResult(**{name: answer.get(name) for name in CodeResult._fields})


def _serve(lock: ChildLock) -> NoReturn:
    while True:
        request = json.loads(
            read_exactly(_REQUESTS, LENGTH.unpack(read_exactly(_REQUESTS, LENGTH.size))[0])
        )
        seconds = request["seconds"]
        raw, death = ask_once(
            lock, _work(request), seconds=seconds, max_bytes=_MAX_ANSWER_BYTES + LENGTH.size
        )
        try:
            answer = json.loads(raw[LENGTH.size :])
        except ValueError:
            error = f"it took longer than {seconds:g} s, or died: {death}"
            answer = {"ok": False, "value": None, "stdout": "", "error": error}
        text = json.dumps(answer if isinstance(answer, dict) else {"ok": False}).encode()
        os.write(_ANSWERS, LENGTH.pack(len(text)) + text)


def _work(request: dict[str, Any]) -> Callable[[], None]:
    return lambda: send_json(_outcome(request))


def _outcome(request: dict[str, Any]) -> dict[str, Any]:
    """Run it here, in the last of the children."""
    stdout, value, error = io.StringIO(), None, ""
    sys.stdin = io.StringIO(request["stdin"])
    try:
        with contextlib.redirect_stdout(stdout):
            value = _value(request)
        json.dumps(value)
    except BaseException as raised:  # SystemExit too: it is the completion's, not ours
        value, error = None, described(raised, []) or type(raised).__name__
    return {
        "ok": not error,
        "value": value,
        "stdout": stdout.getvalue()[:_MAX_STDOUT_CHARS],
        "error": error,
    }


def _value(request: dict[str, Any]) -> Any:
    names: dict[str, Any] = {"__name__": "__main__"}
    source = request["source"]
    if request["call"] is None:
        try:
            expression = compile(source.strip(), "<completion>", "eval", dont_inherit=True)
        except SyntaxError:
            pass
        else:
            return eval(expression, names)
    exec(compile(source, "<completion>", "exec", dont_inherit=True), names)
    return names[request["call"]](*request["args"]) if request["call"] else None


def _received(descriptor: int) -> bytes:
    (length,) = LENGTH.unpack(read_exactly(descriptor, LENGTH.size))
    return read_exactly(descriptor, length)
