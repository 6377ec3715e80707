"""One grader's sandbox with a warm spare beside it: what dies costs the samples in flight."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import NoIsolation
from jobs.graders.sandbox import isolation
from jobs.graders.sandbox.answers import Loaded, SandboxLost, SourceRefused, Verdict
from jobs.graders.sandbox.inside.lockdown import Limits
from jobs.graders.sandbox.inside.records import MAX_SCORES, Kind, Status
from jobs.graders.sandbox.process import MAX_ROW_BYTES, Sandbox

log = logging.getLogger(__name__)

# So many rows in a row that had to be killed: the next are answered unasked for a while.
MAX_KILLS_IN_A_ROW = 64
_REST_SECONDS = 30.0
# Sandboxes that are started at a time: one to grade in, and one beside it.
_MAX_STARTS = 2
_MAX_TRIES = 3
_KILLED = (Status.TIMEOUT, Status.CRASHED, Status.PROTOCOL, Status.SANDBOX_LOST)


@dataclass(frozen=True)
class Program:
    """A grader's source and what a call of it may use."""

    source: str
    limits: tuple[float, float, int]
    """CPU seconds, wall seconds, MiB of memory."""
    calls_per_process: int
    """At most: a process that ran a text as code serves no further call."""


class Pool:
    """Grades rows of one program. Threads may share it; `close` it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._lock = threading.Condition()
        self._active: Sandbox | None = None
        self._spare: Sandbox | None = None
        self._num_starting = 0
        self._is_closed = False
        self._kills_in_a_row = 0
        self._resting_until = 0.0

    @property
    def loaded(self) -> Loaded:
        """What is known of the source. Raises SourceRefused, NoIsolation, SandboxLost."""
        return self._sandbox().loaded

    def grade(self, kind: Kind, graded: Any, item: Mapping[str, Any], *, wanted: int) -> Verdict:
        """The verdict on one sample or group. Raises SourceRefused, NoIsolation."""
        if wanted > MAX_SCORES:
            return Verdict(Status.SKIPPED, message=f"a group has at most {MAX_SCORES} samples")
        try:
            payload = json.dumps([graded, item], separators=(",", ":")).encode()
        except RecursionError:
            return Verdict(Status.SKIPPED, message="the row is nested too deeply")
        if len(payload) > MAX_ROW_BYTES:
            return Verdict(Status.SKIPPED, message=f"the row is larger than {MAX_ROW_BYTES} bytes")
        if time.monotonic() < self._resting_until:
            message = f"the last {MAX_KILLS_IN_A_ROW} calls of this grader had to be killed"
            return Verdict(Status.SKIPPED, message=message)
        verdict = self._graded(kind, payload, wanted)
        self._count(verdict)
        return verdict

    def _graded(self, kind: Kind, payload: bytes, wanted: int) -> Verdict:
        for _ in range(_MAX_TRIES):
            try:
                sandbox = self._sandbox()
                verdict = sandbox.submit(kind, payload, wanted=wanted).result()
            except SandboxLost as lost:
                log.warning("a grader's sandbox died")
                if lost.was_running:  # it may be what killed it: not to be tried twice
                    break
            else:
                self._warm_spare()
                return verdict
        return Verdict(Status.SANDBOX_LOST, message="the sandbox died while it graded this sample")

    def _count(self, verdict: Verdict) -> None:
        with self._lock:
            self._kills_in_a_row = self._kills_in_a_row + 1 if verdict.status in _KILLED else 0
            if self._kills_in_a_row >= MAX_KILLS_IN_A_ROW:
                self._kills_in_a_row = 0
                self._resting_until = time.monotonic() + _REST_SECONDS

    def _sandbox(self) -> Sandbox:
        """The one to grade in, started where there is none.

        A start may take seconds, so it holds up no row that finds a sandbox meanwhile.
        """
        dead: list[Sandbox] = []
        try:
            with self._lock:
                while (ready := self._ready(dead)) is None and self._num_starting >= _MAX_STARTS:
                    self._lock.wait()
                if ready is not None:
                    return ready
                self._num_starting += 1
        finally:
            for sandbox in dead:
                sandbox.close()
        return self._started()

    def _ready(self, dead: list[Sandbox]) -> Sandbox | None:
        """The active sandbox, or the spare in its place; what has died is to be closed."""
        if self._is_closed:
            raise SandboxLost(was_running=True)
        if self._active is None or not self._active.is_alive:
            dead += [self._active] if self._active is not None else []
            self._active, self._spare = self._spare, None
        if self._active is None or not self._active.is_alive:
            dead += [self._active] if self._active is not None else []
            self._active = None
        return self._active

    def _started(self) -> Sandbox:
        """Start one, as the caller has counted, and be given the one to grade in."""
        try:
            sandbox = loaded_sandbox(self.program)
        except BaseException:
            with self._lock:
                self._num_starting -= 1
                self._lock.notify_all()
            raise
        unused = [sandbox]
        try:
            with self._lock:
                self._num_starting -= 1
                self._lock.notify_all()
                active = self._ready(unused)
                if active is None:
                    self._active = active = unused.pop(0)
                elif self._spare is None:
                    self._spare = unused.pop(0)
                return active
        finally:
            for one in unused:
                one.close()

    def _warm_spare(self) -> None:
        """Have another sandbox loaded, in the background, for when this one dies."""
        if self._spare is not None or self._num_starting:
            return
        with self._lock:
            if self._spare is not None or self._num_starting or self._is_closed:
                return
            self._num_starting += 1
        threading.Thread(target=self._warm, name="sandbox-spare", daemon=True).start()

    def _warm(self) -> None:
        try:
            self._started()
        except (SourceRefused, SandboxLost, NoIsolation) as error:
            if not self._is_closed:
                # The next start says it where it matters.
                log.warning("no spare sandbox: %s", error)

    def close(self) -> None:
        """End both sandboxes; calls under way are answered as lost."""
        with self._lock:
            self._is_closed = True
            held, self._active, self._spare = (self._active, self._spare), None, None
            self._lock.notify_all()
        for sandbox in held:
            if sandbox is not None:
                sandbox.close()


def loaded_sandbox(program: Program) -> Sandbox:
    """A sandbox with the program in it. Raises SourceRefused, NoIsolation."""
    sandbox, report = _load(program, preloaded=())
    if report["error"] and sandbox.report["is_sealed"] and report["imports"]:
        # It cannot read files any more: what the source imports must be there before the lock.
        sandbox, report = _load(program, preloaded=report["imports"])
    if report["error"]:
        raise SourceRefused(report["error"])
    return sandbox


def _load(program: Program, *, preloaded: Sequence[str]) -> tuple[Sandbox, dict[str, Any]]:
    sandbox = isolation.start(Limits(*program.limits), preloaded=preloaded)
    report = sandbox.load(program.source, calls_per_process=program.calls_per_process)
    return sandbox, report
