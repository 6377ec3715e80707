"""What passes between service, harness and graders: fixed structs, checked field by field.

    service --ROW + JSON--> harness --ROW + JSON (spliced)--> child
    service <--RESULT------ harness <--VERDICT--------------- child

Only numbers and bounded text come out of the sandbox: nothing that has to be parsed.
"""

import struct
from enum import IntEnum

ROW = struct.Struct("<BIQHI")
"""kind, row id, nonce, number of scores wanted, bytes of JSON that follow."""

VERDICT = struct.Struct("<QBIHH")
"""nonce, status, microseconds, number of scores, bytes of message; then scores and message."""

RESULT = struct.Struct("<IBBIHH")
"""row id, status, whether a text was run as code, microseconds, number of scores, bytes of message;
then scores and message."""

RAN_TEXT = b"ran text"
"""Written by a child before its verdict, once, when it is about to run a text as code."""

LENGTH = struct.Struct("<I")
"""Before each JSON document of the handshake."""

# A pipe takes or gives this much in one piece (PIPE_BUF): a verdict is whole or it is a lie.
MAX_VERDICT_BYTES = 4096
MAX_SCORES = 256
MAX_MESSAGE_BYTES = MAX_VERDICT_BYTES - VERDICT.size - 8 * MAX_SCORES


class Kind(IntEnum):
    """What a row asks for."""

    GRADE = 1
    GRADE_GROUP = 2


class Status(IntEnum):
    """What became of a row. Those from 10 on are never taken from a child's own word."""

    OK = 0
    EXCEPTION = 1
    BAD_RETURN = 2
    LOAD_FAILED = 3
    TIMEOUT = 10
    CRASHED = 11
    PROTOCOL = 12
    SANDBOX_LOST = 13
    SKIPPED = 14


def scores_format(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}d")
