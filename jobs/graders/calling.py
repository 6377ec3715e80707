"""One JSON request to another machine, tried again while that may help."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs import strict_json
from jobs.outbound import Outbound, OutboundFailed, OutboundTooLarge, Reply
from jobs.vetted import OutboundRefused

# What a server says when it may do better later.
_PASSING = frozenset({408, 409, 425, 429})
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 20.0
_MAX_CODE_CHARS = 80


class CallFailed(Exception):
    """No usable answer; the message is a sentence about the other side, without its words."""

    def __init__(self, sentence: str, *, is_timeout: bool = False) -> None:
        super().__init__(sentence)
        self.is_timeout = is_timeout


@dataclass(frozen=True)
class Patience:
    """How long a call is tried."""

    timeout_seconds: float
    """For one try."""
    max_retries: int
    max_bytes: int
    """The largest answer."""


def _go_on() -> None:
    pass


class Caller:
    """Posts JSON through the guard. Closing it ends waits and requests at once."""

    def __init__(
        self, outbound: Outbound, *, max_retries: int = 20, max_seconds: float = 600.0
    ) -> None:
        """The bounds hold whatever patience a call asks for: a person may be waiting."""
        self.outbound = outbound
        self.max_retries = max_retries
        self.max_seconds = max_seconds
        self._closing = threading.Event()

    def post(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str],
        patience: Patience,
        before_each: Callable[[], None] = _go_on,
    ) -> Any:
        """The JSON value that a 2xx answer holds. Raises CallFailed.

        `before_each` is called before every try is sent; what it raises ends the call.
        """
        max_retries = min(patience.max_retries, self.max_retries)
        for num_tries in range(1, max_retries + 2):
            reply: Reply | None = None
            is_timeout = False
            before_each()
            try:
                reply = self.outbound.post(
                    url,
                    body,
                    headers={"content-type": "application/json", **headers},
                    timeout_seconds=min(patience.timeout_seconds, self.max_seconds),
                    max_bytes=patience.max_bytes,
                )
            except OutboundFailed as error:
                problem, is_timeout = str(error), error.is_timeout
            except (OutboundRefused, OutboundTooLarge) as error:
                raise CallFailed(str(error)) from None
            if reply is not None:
                if 200 <= reply.status < 300:
                    return _json_of(reply)
                problem = _sentence(reply)
                if reply.status not in _PASSING and reply.status < 500:
                    raise CallFailed(problem)
            if num_tries <= max_retries:
                self._closing.wait(_wait_seconds(num_tries, reply))
            if self._closing.is_set():
                break
        tries = "once" if num_tries == 1 else f"{num_tries} times"
        raise CallFailed(f"{problem} (asked {tries})", is_timeout=is_timeout)

    def close(self) -> None:
        self._closing.set()
        self.outbound.close()


class Pace:
    """At most `per_second` calls a second, evenly, of all threads together."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1.0 / per_second
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Return when the next call may start."""
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._gap
        time.sleep(max(0.0, start - time.monotonic()))


def _json_of(reply: Reply) -> Any:
    try:
        return strict_json.loads(reply.body)
    except ValueError as error:
        raise CallFailed(f"its answer is not JSON: {error}") from None


def _sentence(reply: Reply) -> str:
    """The status and, where it follows OpenAI's form, the error's code; never its text.

    The text may quote what only the operator should see, such as part of a key.
    """
    if 300 <= reply.status < 400:
        return f"it answered with a redirect ({reply.status}), which is not followed"
    try:
        error = json.loads(reply.body)["error"]
        code = error.get("code") or error.get("type")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        code = None
    if isinstance(code, str) and code.isascii() and code.isprintable():
        return f"it answered {reply.status} ({code[:_MAX_CODE_CHARS]})"
    return f"it answered {reply.status}"


def _wait_seconds(num_tries: int, reply: Reply | None) -> float:
    asked = reply.headers.get("retry-after", "") if reply else ""
    if asked.isdecimal() and len(asked) < 6:
        return min(float(asked), _LONGEST_WAIT_SECONDS)
    # Full jitter keeps the threads of a step from coming back all at once.
    longest = min(_FIRST_WAIT_SECONDS * 2 ** (num_tries - 1), _LONGEST_WAIT_SECONDS)
    return float(longest * random.uniform(0.5, 1.0))
