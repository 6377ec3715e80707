"""The loop inside the sandbox: a row comes, a child grades it, its verdict goes back.

It never runs a user's code and never holds a row: the bytes are spliced from the service's pipe
into a child's. So no child, forked from this process, can find another row's labels in its memory.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from types import CodeType

from .children import Child, Job, reap_strangers
from .completions import fork_helper, run_code
from .lockdown import ChildLock, Limits
from .pipes import read_exactly
from .records import (
    MAX_MESSAGE_BYTES,
    MAX_VERDICT_BYTES,
    RAN_TEXT,
    RESULT,
    ROW,
    VERDICT,
    Status,
    scores_format,
)
from .runner import run

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it would take longer than all the rest
    from typing import NoReturn

_CPU_CHECK_SECONDS = 0.02
_LAST_STATUS_OF_A_CHILD = Status.LOAD_FAILED


class Harness:
    """Serves rows of one loaded grader until the service hangs up."""

    def __init__(
        self, rows: int, results: int, null: int, *, lock: ChildLock, limits: Limits
    ) -> None:
        self._rows = rows
        self._results = results
        self._null = null
        self._lock = lock
        self._limits = limits
        self._children: dict[int, Child] = {}  # by the descriptor of their verdicts
        self._dying: list[int] = []

    def serve(
        self, code: CodeType, source_lines: list[str], *, parallel: int, calls_per_process: int
    ) -> NoReturn:
        """Until the service hangs up or dies."""
        self._code, self._source_lines = code, source_lines
        self._calls_per_process = calls_per_process
        self._runs_completions = any(run_code.__name__ in line for line in source_lines)
        while True:
            is_free = len(self._children) < parallel or self._idle() is not None
            poller = select.poll()
            poller.register(self._rows, select.POLLIN if is_free else 0)  # 0 still tells of its end
            for descriptor in self._children:
                poller.register(descriptor, select.POLLIN)
            for descriptor, events in poller.poll(self._patience()):
                if child := self._children.get(descriptor):
                    self._hear(child)
                elif descriptor != self._rows:
                    continue  # lost while this turn's row was handed out
                elif events & select.POLLIN:
                    self._accept()
                else:
                    os._exit(0)
            self._enforce()
            # Nobody waits for the end of a child that is done: it takes as long as its start.
            self._dying = [pid for pid in self._dying if not os.waitpid(pid, os.WNOHANG)[0]]
            if self._runs_completions:
                alive = {child.pid for child in self._children.values()}
                reap_strangers(alive.union(self._dying))

    def _idle(self) -> Child | None:
        return next((child for child in self._children.values() if child.job is None), None)

    def _accept(self) -> None:
        """Give the next row to a child. The child is there before a byte of the row is read."""
        child = self._idle() or self._new_child()
        started, cpu_before = time.monotonic(), child.cpu_seconds()
        head = read_exactly(self._rows, ROW.size)
        _, row_id, nonce, wanted, length = ROW.unpack(head)
        child.job = Job(row_id, nonce, wanted, started, cpu_before)
        child.num_rows += 1
        left = length
        try:
            os.write(child.pipes.rows, head)
            for moved in self._splices(child, length):
                left -= moved
        except BrokenPipeError:
            self._lose(child, Status.CRASHED, "before it read the row, the grader's process died: ")
        else:
            if left:
                self._lose(child, Status.TIMEOUT, "the grader's module did not load in time")
        while left:
            left -= self._moved(self._null, left)

    def _splices(self, child: Child, left: int) -> Iterator[int]:
        """Move a row from pipe to pipe as the child takes it, until the wall limit."""
        deadline = time.monotonic() + self._limits.wall_seconds
        source, sink = select.poll(), select.poll()
        source.register(self._rows, select.POLLIN)
        sink.register(child.pipes.rows, select.POLLOUT)
        while left and sink.poll(max(0.0, deadline - time.monotonic()) * 1000):
            source.poll()
            moved = self._moved(child.pipes.rows, left)
            yield moved
            left -= moved

    def _moved(self, sink: int, count: int) -> int:
        moved = os.splice(self._rows, sink, count, flags=os.SPLICE_F_MOVE)
        if not moved:
            os._exit(0)  # the service hung up
        return moved

    def _prepare(self) -> Sequence[int]:
        return fork_helper(self._lock) if self._runs_completions else ()

    def _new_child(self) -> Child:
        child = Child(
            self._lock,
            lambda: run(self._code, self._source_lines, {"run_code": run_code}),
            cpu_seconds=self._limits.cpu_seconds * self._calls_per_process,
            prepare=self._prepare,
        )
        self._children[child.pipes.verdicts] = child
        return child

    def _hear(self, child: Child) -> None:
        data = os.read(child.pipes.verdicts, len(RAN_TEXT) + MAX_VERDICT_BYTES + 1)
        job = child.job
        if data.startswith(RAN_TEXT) and not child.ran_text:
            child.ran_text = True
            data = data[len(RAN_TEXT) :]
            if not data and job is not None:
                return  # its verdict is still to come
        if not data:
            self._lose(child, Status.CRASHED, "the grader's process died: ")
        elif job is None or not is_verdict(data, job):
            self._lose(child, Status.PROTOCOL, "the grader's process wrote to the harness's pipe")
        else:
            _, status, *rest_of_head = VERDICT.unpack_from(data)
            head = RESULT.pack(job.row_id, status, child.ran_text, *rest_of_head)
            os.write(self._results, head)
            if rest := data[VERDICT.size :]:
                os.write(self._results, rest)
            child.job = None
            if child.ran_text or child.num_rows >= self._calls_per_process:
                del self._children[child.pipes.verdicts]
                child.kill()
                self._dying.append(child.pid)

    def _lose(self, child: Child, status: Status, message: str) -> None:
        del self._children[child.pipes.verdicts]
        job, death = child.job, child.end()
        if job is None:
            return  # it died between rows: nobody is owed an answer
        text = (message + death if message.endswith(": ") else message).encode()
        age = self._age_micros(job)
        head = RESULT.pack(job.row_id, status, child.ran_text, age, 0, len(text))
        os.write(self._results, head + text)

    def _age_micros(self, job: Job) -> int:
        return min(int((time.monotonic() - job.started) * 1e6), 0xFFFFFFFF)

    def _patience(self) -> float | None:
        """Milliseconds until a limit could be reached; None while nothing runs."""
        now, limits = time.monotonic(), self._limits
        waits = []
        for child in self._children.values():
            if child.job is not None:
                age = now - child.job.started
                by_cpu = (
                    limits.cpu_seconds - age if age < limits.cpu_seconds else _CPU_CHECK_SECONDS
                )
                waits.append(min(by_cpu, limits.wall_seconds - age))
        return max(1.0, min(waits) * 1000) if waits else None

    def _enforce(self) -> None:
        """Measured from outside the child: no alarm, handler or `except` in it can interfere."""
        now, limits = time.monotonic(), self._limits
        for child in list(self._children.values()):
            job = child.job
            if job is None:
                continue
            age = now - job.started
            if age >= limits.wall_seconds:
                limit = f"the grader ran longer than {limits.wall_seconds:g} s"
                self._lose(child, Status.TIMEOUT, limit)
            elif (
                age >= limits.cpu_seconds
                and child.cpu_seconds() - job.cpu_before >= limits.cpu_seconds
            ):
                limit = f"the grader used more than {limits.cpu_seconds:g} s of CPU"
                self._lose(child, Status.TIMEOUT, limit)


def is_verdict(data: bytes, job: Job) -> bool:
    """Whether the bytes are exactly one verdict on this row, in every field."""
    if not VERDICT.size <= len(data) <= MAX_VERDICT_BYTES:
        return False
    nonce, status, _, num_scores, num_bytes = VERDICT.unpack_from(data)
    scores_end = VERDICT.size + 8 * num_scores
    if num_bytes > MAX_MESSAGE_BYTES or len(data) != scores_end + num_bytes:
        return False
    scores = scores_format(num_scores).unpack(data[VERDICT.size : scores_end])
    return (
        nonce == job.nonce
        and status <= _LAST_STATUS_OF_A_CHILD
        and num_scores == (job.wanted if status == Status.OK else 0)
        and all(abs(score) < float("inf") for score in scores)
    )


def ignore_keyboard() -> None:
    """Ctrl-C is for the service; it ends the sandbox in its own time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
