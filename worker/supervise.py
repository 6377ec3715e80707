"""Claim a job, run it in a trainer process, keep its lease, pass on requests, record the end."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from jobs.artifacts import ArtifactStore
from jobs.db import connect, session_factory, transaction
from jobs.errors import JobFailure, LeaseLost
from jobs.models import Job
from jobs.names import tuned_model
from jobs.settings import Settings
from jobs.status import Reason, Status
from jobs.store import attempts, checkpoints, events
from jobs.store.attempts import Claim
from worker.slots import Slot, free_slot
from worker.trainer_process import TrainerProcess, describe_exit
from worker.validator import Validator

log = logging.getLogger(__name__)

# A trainer that was asked to stop saves its state and ends; within this long a request is obeyed.
OBEY_SECONDS = 8.0


class Supervisor:
    """What one pool process does when the doorbell rings."""

    def __init__(self, settings: Settings, *, is_stopping: Callable[[], bool]) -> None:
        self.settings = settings
        self.is_stopping = is_stopping
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self.engine = connect(settings.sqlalchemy_url)
        self.sessions = session_factory(self.engine)
        self.validator = Validator(
            settings, self.sessions, worker=self.worker, is_stopping=is_stopping
        )

    def drain(self) -> None:
        """Validate and run until nothing waits that this process can take."""
        try:
            self.validator.validate_all()
            with free_slot(self.settings.run_dir) as slot:
                if slot is None:
                    return
                while not self.is_stopping():
                    claimed = self._claim()
                    if claimed is None:
                        return
                    Attempt(self, claimed, slot).run()
                    self.validator.validate_all()
        finally:
            self.engine.dispose()

    def _claim(self) -> Claim | None:
        with transaction(self.sessions) as session:
            return attempts.claim(
                session, worker=self.worker, lease_seconds=self.settings.lease_seconds
            )


class Attempt:
    """One attempt at one job, from the claim to the outcome."""

    def __init__(self, supervisor: Supervisor, claimed: Claim, slot: Slot) -> None:
        self.settings = supervisor.settings
        self.sessions = supervisor.sessions
        self.is_stopping = supervisor.is_stopping
        self.claimed = claimed
        self.slot = slot
        self.outcome: dict[str, Any] | None = None
        self.progress: dict[str, Any] = {}
        self.asked: str | None = None
        self.asked_at = 0.0

    def run(self) -> None:
        folder = self.settings.logs_dir / "jobs" / self.claimed.job_id
        trainer = TrainerProcess(
            self.claimed, self.slot, log=folder / f"attempt-{self.claimed.attempt}.log"
        )
        log.info("%s attempt %d started", self.claimed.job_id, self.claimed.attempt)
        try:
            loss = self._watch(trainer)
            self._conclude(loss)
        except LeaseLost as lost:
            log.warning("%s: stopping, %s", self.claimed.job_id, lost)
        except OperationalError as error:
            # The lease runs out by itself and another attempt takes over.
            log.error("%s: the database did not answer: %s", self.claimed.job_id, error)
        finally:
            trainer.close()

    def _watch(self, trainer: TrainerProcess) -> JobFailure | None:
        """Renew until the trainer ends. Returns how it was lost, or None when it said an outcome.

        Raises LeaseLost when the job is another attempt's.
        """
        renewed_at = time.monotonic()
        while True:
            code = trainer.wait(self.settings.renew_seconds)
            self._hear(trainer)
            if code is not None:
                return self._lost(trainer, code)
            try:
                self._renew(trainer)
                renewed_at = time.monotonic()
            except OperationalError:
                if time.monotonic() - renewed_at > self.settings.lease_seconds:
                    raise
                log.exception("%s: the lease could not be renewed", self.claimed.job_id)
            silent = time.monotonic() - trainer.last_heard
            if silent > self.settings.progress_seconds:
                trainer.kill()
                return JobFailure(
                    Reason.NO_PROGRESS,
                    f"The trainer did nothing for {silent:.0f} seconds and was stopped.",
                )
            if self.asked and time.monotonic() - self.asked_at > OBEY_SECONDS:
                trainer.kill()
                # Nothing published is lost: the job stands at its newest checkpoint.
                self.outcome = {"outcome": "stopped"}
                return None

    def _hear(self, trainer: TrainerProcess) -> None:
        for message in trainer.messages():
            if "outcome" in message:
                self.outcome = message
            else:
                self.progress.update(message)

    def _renew(self, trainer: TrainerProcess) -> None:
        with transaction(self.sessions) as session:
            requests = attempts.renew(
                session,
                self.claimed,
                lease_seconds=self.settings.lease_seconds,
                **self._columns(),
            )
        request = None
        if requests.is_cancel:
            request = "cancel"
        elif requests.is_pause:
            request = "pause"
        elif self.is_stopping():
            request = "release"
        if request and request != self.asked:
            if self.asked is None:
                self.asked_at = time.monotonic()
            self.asked = request
            trainer.ask(request)

    def _columns(self) -> dict[str, Any]:
        """The latest progress, as the columns of the job's row."""
        if not self.progress:
            return {}
        progress, self.progress = self.progress, {}
        phase = progress.pop("phase", None)
        return {"progress": progress, **({"phase": phase} if phase else {})}

    def _lost(self, trainer: TrainerProcess, code: int) -> JobFailure | None:
        if self.outcome is not None:
            return None
        evidence = trainer.evidence()
        log.error("%s: the trainer %s\n%s", self.claimed.job_id, describe_exit(code), evidence)
        said = f": {_last_line(evidence)}" if code > 0 else ""
        return JobFailure(
            Reason.TRAINER_CRASHED, f"The trainer process {describe_exit(code)}{said}."
        )

    def _conclude(self, loss: JobFailure | None) -> None:
        claimed = self.claimed
        with transaction(self.sessions) as session:
            if loss is not None:
                attempts.lose(session, claimed, loss, max_losses=self.settings.max_losses)
                return
            said = self.outcome or {}
            match said["outcome"]:
                case "succeeded":
                    self._succeed(session, said["verdict"])
                case "failed":
                    failure = JobFailure(
                        Reason(said["reason"]), said["message"], param=said.get("param")
                    )
                    attempts.fail(session, claimed, failure)
                case "stopped":
                    attempts.stopped(session, claimed)
        self._tidy()

    def _succeed(self, session: Session, verdict: str) -> None:
        attempts.conclude(session, self.claimed, Status.SUCCEEDED, reason=None, verdict=verdict)
        job = session.get(Job, self.claimed.job_id)
        assert job is not None
        name = tuned_model(job)
        events.add(session, self.claimed.job_id, f"New fine-tuned model created: {name}")
        events.add(session, self.claimed.job_id, "The job has successfully completed")

    def _tidy(self) -> None:
        """Remove what attempts left behind that no checkpoint's row names."""
        store = ArtifactStore(self.settings.artifacts_dir)
        with transaction(self.sessions) as session:
            kept = checkpoints.folders(session, self.claimed.job_id)
        store.keep_only(f"jobs/{self.claimed.job_id}", kept)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no output"
