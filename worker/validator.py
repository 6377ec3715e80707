"""Runs the validation of waiting jobs, each in a process of its own, and keeps its lease.

A user's file must not be able to take the worker with it.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO

from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.errors import JobFailure
from jobs.log import about_job, last_words
from jobs.request_id import REQUEST_ID_VARIABLE
from jobs.settings import Settings
from jobs.status import Reason
from jobs.store import validation
from jobs.store.validation import Waiting
from worker.start import Process, start
from worker.trainer_process import describe_exit

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "worker.validate")
VALIDATION_SECONDS = 900.0
# Files that could not be fetched are asked for again after so long.
AWAY_SECONDS = 5.0


class Validator:
    """Validates until nothing waits."""

    def __init__(
        self,
        settings: Settings,
        sessions: sessionmaker[Session],
        *,
        worker: str,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.sessions = sessions
        self.worker = worker
        self.is_stopping = is_stopping

    def validate_all(self) -> None:
        """Take waiting jobs, in turn, until there is none or the worker shuts down."""
        while not self.is_stopping():
            with transaction(self.sessions) as session:
                claimed = validation.claim(
                    session, worker=self.worker, lease_seconds=self.settings.lease_seconds
                )
            if claimed is None:
                return
            with about_job(claimed.job_id, request=claimed.request_id):
                self._validate(claimed)

    def _validate(self, claimed: Waiting) -> None:
        if claimed.num_tries > self.settings.max_losses:
            fault: str | None = (
                f"Validation was begun {self.settings.max_losses} times and its process was "
                "killed each time; the file may need more memory than the worker has."
            )
        else:
            fault = self._run(claimed.job_id, claimed.request_id)
        if fault is not None:
            failure = JobFailure(Reason.INTERNAL_ERROR, fault)
            with transaction(self.sessions) as session:
                validation.refuse(session, claimed.job_id, failure)

    def _run(self, job_id: str, request_id: str | None) -> str | None:
        """Why validation cannot be finished, or None: it said its result, or another try may."""
        with tempfile.TemporaryFile("w+") as errors, open(os.devnull, "r+b") as nothing:
            process = start(
                [*COMMAND, job_id],
                environ={**os.environ, REQUEST_ID_VARIABLE: request_id or ""},
                stdin=nothing.fileno(),
                stdout=nothing.fileno(),
                stderr=errors.fileno(),
                lease_seconds=self.settings.lease_seconds,
            )
            try:
                return self._wait(job_id, process, errors)
            finally:
                process.kill()

    def _wait(self, job_id: str, process: Process, errors: IO[str]) -> str | None:
        """Also None when it need not be finished here; its process is killed then for no fault."""
        started = time.monotonic()
        while not self.is_stopping():
            code = process.wait(self.settings.renew_seconds)
            if code is None:
                if time.monotonic() - started > VALIDATION_SECONDS:
                    return f"Reading the files took longer than {VALIDATION_SECONDS:.0f} seconds."
                if not self._renew(job_id):
                    break  # cancelled, or the lease ran out and another validator has it
                continue
            if code == 0:
                return None
            if code == os.EX_TEMPFAIL:
                self._leave(job_id, seconds=AWAY_SECONDS)
                return None
            errors.seek(0)
            said = errors.read().strip().splitlines() or ["no output"]
            log.error("validation of %s failed:\n%s", job_id, "\n".join(said))
            if code < 0:
                return None  # killed: the lease runs out and it is tried again
            return f"Validation {describe_exit(code)}: {last_words(said[-1])}"
        self._leave(job_id)
        return None

    def _leave(self, job_id: str, *, seconds: float = 0) -> None:
        with transaction(self.sessions) as session:
            validation.leave(session, job_id, worker=self.worker, seconds=seconds)

    def _renew(self, job_id: str) -> bool:
        with transaction(self.sessions) as session:
            return validation.renew(
                session, job_id, worker=self.worker, lease_seconds=self.settings.lease_seconds
            )
