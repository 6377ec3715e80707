"""In a locked, disposable child: read a row, call the user's function, say its verdict.

Everything used after the user's code began is held in locals: replacing `json.loads`, builtins or
this module's names does not reach it. What runs in the same process can in the end still lie about
the row at hand; about no other, whose nonce has not arrived yet.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import zlib
from collections.abc import Callable
from types import CodeType

from .lockdown import ROWS_FD, VERDICTS_FD
from .records import (
    LENGTH,
    MAX_MESSAGE_BYTES,
    ROW,
    VERDICT,
    Kind,
    Status,
    scores_format,
)
from .watching import watch

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it would take longer than all the rest
    from typing import Any

FILENAME = "<grader>"
_MAX_FRAMES = 12
_MAX_SHOWN = 600


def run(code: CodeType, source_lines: list[str], given: dict[str, Any]) -> None:
    """Serve rows until there are no more; never returns. The source sees the `given` names."""
    read, write, loads, clock = os.read, os.write, json.loads, time.perf_counter
    row_of, pack, checksum, size, whole = ROW.unpack, VERDICT.pack, zlib.crc32, len, int
    exactly, encode_scores, checked = _exactly, scores_format, _checker()
    names: dict[str, Any] = {"__name__": "grader", "__builtins__": __builtins__, **given}
    failure = None
    begin = watch(write, VERDICTS_FD)  # first: a hook of the module's own could keep later ones out
    try:
        exec(code, names)
    except BaseException as error:
        failure = described(error, source_lines)
    begin()  # no row is here yet: whatever the module ran, it was its author's
    functions: dict[int, Any] = {
        Kind.GRADE: names.get("grade"),
        Kind.GRADE_GROUP: names.get("grade_group"),
    }
    seeds = _seeds()
    while True:
        kind, _, nonce, wanted, length = row_of(exactly(read, ROW.size))
        payload = exactly(read, length)
        started = clock()
        scores: list[float] = []
        try:
            if failure is not None:
                status, message = Status.LOAD_FAILED, failure
            else:
                for seed in seeds:  # by content: the same score whatever was graded before
                    seed(checksum(payload))
                scores, message = checked(functions[kind](*loads(payload)), kind, wanted)
                status = Status.BAD_RETURN if message else Status.OK
        except BaseException as error:  # SystemExit, KeyboardInterrupt and MemoryError too
            scores, status, message = [], Status.EXCEPTION, described(error, source_lines)
        micros = whole((clock() - started) * 1e6) & 0xFFFFFFFF
        text = message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES]
        head = pack(nonce, status, micros, size(scores), size(text))
        write(VERDICTS_FD, head + encode_scores(size(scores)).pack(*scores) + text)


def _checker() -> Callable[[object, int, int], tuple[list[float], str]]:
    """Makes scores of an answer, or says why it is none; subclasses of float may lie: none pass.

    What it calls is bound here and now, and types are known by their identity alone: a metaclass
    may lie about equality too.
    """
    id_of, kind_of, size, to_float, number_them = id, type, len, float, enumerate
    is_finite, shown, number_kinds = math.isfinite, _shown, _number_kinds()
    lists, plain = (id(list), id(tuple)), {id(kind) for kind in (float, int, bool)}
    array_kind, item_of, list_of = _numpy_array()

    def is_number(value: Any) -> bool:
        try:
            return id_of(kind_of(value)) in number_kinds and is_finite(value)
        except OverflowError:  # an int beyond a float
            return False

    def refused(value: Any, wanted: str, place: str = "") -> tuple[list[float], str]:
        known = id_of(kind_of(value)) in plain
        hint = "" if known else "; make another number one with float(...)"
        return [], f"{wanted}, not {shown(value)}{place}{hint}"

    def checked(answer: Any, kind: int, wanted: int) -> tuple[list[float], str]:
        if kind == Kind.GRADE:
            if kind_of(answer) is array_kind and not answer.ndim:
                answer = item_of(answer)
            if is_number(answer):
                return [to_float(answer)], ""
            return refused(answer, "grade() must return a finite number")
        if kind_of(answer) is array_kind and answer.ndim:
            answer = list_of(answer)
        if id_of(kind_of(answer)) not in lists:
            return [], f"grade_group() must return a list of numbers, not {shown(answer)}"
        if size(answer) != wanted:
            return [], f"grade_group() returned {size(answer)} numbers for {wanted} samples"
        for index, score in number_them(answer):
            if not is_number(score):
                return refused(score, "grade_group() must return finite numbers", f" at {index}")
        return [to_float(score) for score in answer], ""

    return checked


def _number_kinds() -> frozenset[int]:
    """The identities of the types whose own conversion to a float nobody can replace."""
    kinds: list[type] = [float, int, bool]
    if (numpy := sys.modules.get("numpy")) is not None:
        codes = "?" + numpy.typecodes["AllInteger"] + numpy.typecodes["Float"]
        kinds += [numpy.dtype(code).type for code in codes]
    return frozenset(id(kind) for kind in kinds)


def _numpy_array() -> tuple[Any, Any, Any]:
    """The type of numpy's arrays, what gives an array's one number, and what makes a list of it."""
    if (numpy := sys.modules.get("numpy")) is None:
        return None, None, None
    return numpy.ndarray, numpy.ndarray.item, numpy.ndarray.tolist


def described(error: BaseException, source_lines: list[str]) -> str:
    """The traceback through the user's own lines, bounded whatever the exception is made of."""
    try:
        return _traceback(error, source_lines)
    except BaseException:  # its own __str__ raised
        return f"{type(error).__name__}, which cannot be shown"


def _traceback(error: BaseException, source_lines: list[str]) -> str:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == FILENAME:
            line = trace.tb_lineno
            shown = source_lines[line - 1].strip() if 0 < line <= len(source_lines) else ""
            frames.append(
                f'  File "{FILENAME}", line {line}, in {code.co_name}\n    {shown:.200}\n'
            )
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        shown = f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    else:
        shown = f"{type(error).__name__}: {str(error)[:_MAX_SHOWN]}"
    if not frames:
        return shown
    if len(frames) > _MAX_FRAMES:
        frames[1 : 1 - _MAX_FRAMES] = ["  ...\n"]
    return "Traceback (most recent call last):\n" + "".join(frames) + shown


def _shown(value: object) -> str:
    return f"{value!r:.100}"


def _seeds() -> list[Any]:
    """A fork inherits the state of its parent's generators: every one would draw the same."""
    seeds = []
    if (random := sys.modules.get("random")) is not None:
        seeds.append(random.seed)
    if (numpy := sys.modules.get("numpy.random")) is not None:
        seeds.append(numpy.seed)
    return seeds


def _exactly(read: Any, count: int) -> bytes:
    parts = []
    while count:
        part = read(ROWS_FD, min(count, 1 << 20))
        if not part:
            os._exit(0)  # the harness wants no more of this child
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def send_json(document: dict[str, Any]) -> None:
    """For the one-shot children that load and attest."""
    text = json.dumps(document).encode()
    os.write(VERDICTS_FD, LENGTH.pack(len(text)) + text)
