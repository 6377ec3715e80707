"""Whether a slot's device is fit: one that is suspect is tested, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.models import Json
from jobs.settings import Settings
from jobs.store import devices
from jobs.store.attempts import Claim
from jobs.store.devices import Fitness
from jobs.store.turns import Place
from worker.slots import Slot
from worker.start import Fresh
from worker.trainer_process import describe_exit

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "worker.examiner")

# A test takes seconds, and some more where the machine is busy; one that hangs is a failed one.
EXAM_SECONDS = 180.0

FIELDS = {"check", "passed", "found"}  # of a line of the examiner's

SAID_CHARACTERS = 2000


@dataclass(frozen=True)
class Health:
    """The health of one slot's device, for who holds the slot."""

    settings: Settings
    sessions: sessionmaker[Session]
    slot: Slot
    is_stopping: Callable[[], bool]

    @property
    def place(self) -> Place:
        return Place(self.settings.worker_name, self.slot.index)

    def may_claim(self) -> bool:
        """Whether the device may take a job now; tests it first where that is due."""
        with transaction(self.sessions) as session:
            fitness = devices.look(session, self.place, self.slot.device)
        if fitness is Fitness.TEST:
            return self._examine(lambda: None)
        return fitness is Fitness.CLAIM

    def explain_loss(self, lost: Claim, meanwhile: Callable[[], None]) -> None:
        """Test a device that lost another job too, before it is said what this loss comes to.

        `meanwhile` is called every `renew_seconds`; what it raises ends the test.
        """
        with self.sessions() as session:
            is_suspect = devices.is_suspect(
                session, self.place, lost_now=(lost.job_id, lost.attempt)
            )
        if is_suspect:
            self._examine(meanwhile)

    def _examine(self, meanwhile: Callable[[], None]) -> bool:
        log.warning("slot %d lost jobs at their start: testing its device", self.slot.index)
        evidence = self._evidence(meanwhile)
        if evidence is None:
            return False
        with transaction(self.sessions) as session:
            num_excused = devices.record(session, self.place, evidence)
        passed: bool = evidence["passed"]
        if passed:
            log.warning("the device of slot %d is healthy", self.slot.index)
        else:
            log.error(
                "the device of slot %d is unhealthy, and %d jobs have their losses back: %s",
                self.slot.index,
                num_excused,
                json.dumps(evidence),
            )
        return passed

    def _evidence(self, meanwhile: Callable[[], None]) -> Json | None:
        """What the self-test says; None when the worker was told to stop meanwhile."""
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": self.slot.gpu or ""}
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
            process = Fresh(
                subprocess.Popen(
                    [*COMMAND, self.slot.device.kind],
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=errors,
                    pass_fds=(self.slot.lock_fd,),
                    start_new_session=True,
                )
            )
            try:
                while (code := process.wait(self.settings.renew_seconds)) is None:
                    if self.is_stopping():
                        return None
                    if time.monotonic() - started > EXAM_SECONDS:
                        break
                    meanwhile()
            finally:
                process.kill()
            return _judged(code, _checks(said), _end_of(errors))


def _checks(said: IO[str]) -> list[Json]:
    said.seek(0)
    checks = []
    for line in said:
        with contextlib.suppress(ValueError):  # a library printed, or the line was cut off
            checks.append(json.loads(line))
    return [one for one in checks if isinstance(one, dict) and one.keys() >= FIELDS]


def _judged(code: int | None, checks: list[Json], errors: str) -> Json:
    """The evidence, and one sentence on what is wrong, of what the examiner has said."""
    reason = None
    ended = "did not end" if code is None else describe_exit(code)
    failed = [one for one in checks if one["passed"] is False]
    begun = [one for one in checks if one["passed"] is None]
    if failed:
        reason = f"the check '{failed[0]['check']}' failed: {failed[0]['found']}"
    elif code != 0:
        where = f" in the check '{begun[-1]['check']}'" if begun else ""
        within = f" within {EXAM_SECONDS:g} seconds" if code is None else ""
        reason = f"its process {ended}{where}{within}"
    return {
        "passed": reason is None,
        "reason": None if reason is None else f"In its self-test {reason}.",
        "checks": [one for one in checks if one["passed"] is not None],
        "ended": ended,
        "said": "" if reason is None else errors,
    }


def _end_of(errors: IO[str]) -> str:
    errors.seek(0)
    return errors.read()[-SAID_CHARACTERS:]
