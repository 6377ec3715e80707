"""What passes between a worker process and the one that asks it: fixed forms, checked.

    asker --REQUEST + JSON--> warm process --the same, spliced--> disposable child
    asker <--REPLY----------- warm process <--REPLY-------------- disposable child

The child may have run a text as code, so its reply is numbers and bounded text, nothing to parse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

REQUEST = struct.Struct("<QI")
"""nonce, bytes of JSON that follow: the arguments of the module's `run`."""

REPLY = struct.Struct("<QBdH")
"""nonce, status, score, bytes of message that follow."""

# One read of a pipe takes so much whole (PIPE_BUF): a reply comes in one piece or it is none.
MAX_REPLY_BYTES = 4096
MAX_MESSAGE_BYTES = 2000
READY_NONCE = 0
"""Of the reply that says that the module is loaded, or why it is not."""


class Status(IntEnum):
    """What became of a call. DIED is never a child's own word."""

    SCORED = 0
    PROBLEM = 1
    RAISED = 2
    DIED = 3


class Outcome(NamedTuple):
    """What a module's `run` returns."""

    score: float = 0.0
    problem: str = ""
    """What is wrong with the definition or the row; the score then means nothing."""
    note: str = ""


MAX_VALUES = 48
"""Of one call that checks many: a bit each has to fit in a score exactly."""


def bits(bad: Iterable[bool], note: str) -> Outcome:
    """Which of at most MAX_VALUES values are bad, and what all of those are."""
    return Outcome(float(sum(is_bad << place for place, is_bad in enumerate(bad))), note=note)


class Reply(NamedTuple):
    """A call's end as the asker reads it."""

    status: Status
    score: float
    message: str


def encoded(nonce: int, status: Status, score: float = 0.0, message: str = "") -> bytes:
    text = message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES]
    return REPLY.pack(nonce, status, score, len(text)) + text


def is_reply(data: bytes, nonce: int) -> bool:
    """Whether the bytes are exactly one reply to this request, in every field."""
    if not REPLY.size <= len(data) <= MAX_REPLY_BYTES:
        return False
    found, status, _, num_bytes = REPLY.unpack_from(data)
    return bool(
        found == nonce
        and status < Status.DIED
        and num_bytes <= MAX_MESSAGE_BYTES
        and len(data) == REPLY.size + num_bytes
    )
