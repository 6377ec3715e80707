"""Claim a job, run it in a trainer process, keep its lease, pass on requests, record the end."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from jobs import disk, halving, results, retention
from jobs.artifacts import open_store
from jobs.db import DATABASE_AWAY, connect, session_factory, transaction
from jobs.devices import Device, largest_device
from jobs.errors import JobFailure, LeaseLost, StoreAway
from jobs.models import Job
from jobs.names import tuned_model
from jobs.settings import Settings
from jobs.status import PASSING, Reason, Status
from jobs.store import attempts, events, fitting, losses
from jobs.store.attempts import Claim
from worker.evidence import Evidence, disk_full, store_away
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
        self.worker = f"{settings.worker_name}:{os.getpid()}"
        self.engine = connect(settings.sqlalchemy_url)
        self.sessions = session_factory(self.engine)
        self.validator = Validator(
            settings, self.sessions, worker=self.worker, is_stopping=is_stopping
        )

    def drain(self) -> None:
        """Validate and run until nothing waits that this process can take."""
        try:
            self.validator.validate_all()
            with free_slot(self.settings.slots_dir) as slot:
                if slot is None:
                    # Busy with other jobs; what fits none of its devices should not wait to hear.
                    with transaction(self.sessions) as session:
                        self._decline(session, self._allowed(largest_device()))
                    return
                while not self.is_stopping():
                    claimed = self._claim(slot)
                    if claimed is None:
                        return
                    Attempt(self, claimed, slot).run()
                    self.validator.validate_all()
        finally:
            self.engine.dispose()

    def _claim(self, slot: Slot) -> Claim | None:
        device = self._allowed(slot.device)
        with transaction(self.sessions) as session:
            claimed = attempts.claim(
                session,
                worker=self.worker,
                lease_seconds=self.settings.lease_seconds,
                device=device,
            )
            if claimed is None:
                self._decline(session, device)
            return claimed

    def _allowed(self, device: Device) -> Device:
        """The device with no more memory than the operator lets jobs use."""
        if self.settings.device_memory_gb is None:
            return device
        limit = int(self.settings.device_memory_gb * fitting.GB)
        return replace(device, memory_bytes=min(limit, device.memory_bytes or limit))

    def _decline(self, session: Session, device: Device) -> None:
        fitting.decline(session, worker=self.settings.worker_name, device=device)


class Attempt:
    """One attempt at one job, from the claim to the outcome."""

    def __init__(self, supervisor: Supervisor, claimed: Claim, slot: Slot) -> None:
        self.settings = supervisor.settings
        self.sessions = supervisor.sessions
        self.store = open_store(supervisor.settings)
        self.is_stopping = supervisor.is_stopping
        self.claimed = claimed
        self.slot = slot
        self.outcome: dict[str, Any] | None = None
        self.progress: dict[str, Any] = {}
        self.evidence = Evidence()
        self.asked: str | None = None
        self.asked_at = 0.0

    def run(self) -> None:
        try:
            with contextlib.closing(self._start()) as trainer:
                log.info("%s attempt %d started", self.claimed.job_id, self.claimed.attempt)
                loss = self._watch(trainer)
                self._conclude(loss)
        except LeaseLost as lost:
            log.warning("%s: stopping, %s", self.claimed.job_id, lost)
        except DATABASE_AWAY as error:
            # The lease runs out by itself and another attempt takes over.
            log.error("%s: the database did not answer: %s", self.claimed.job_id, error)
        except StoreAway as error:
            self._wait(store_away(error))
        except OSError as error:
            if not disk.is_full(error):
                raise
            self._wait(disk_full(error))
        finally:
            self.store.close()

    def _start(self) -> TrainerProcess:
        folder = self.settings.logs_dir / "jobs" / self.claimed.job_id
        path = folder / f"attempt-{self.claimed.attempt}.log"
        return TrainerProcess(self.claimed, self.slot, log=path)

    def _watch(self, trainer: TrainerProcess) -> JobFailure | None:
        """Renew until the trainer ends. Returns how it was lost, or None when it said an outcome.

        Raises LeaseLost when the job is another attempt's.
        """
        renewed_at = time.monotonic()
        while True:
            code = trainer.wait(self.settings.renew_seconds)
            self._hear(trainer)
            self.evidence.oom_kills.look()
            if code is not None:
                return self._lost(trainer, code)
            try:
                self._renew(trainer)
                renewed_at = time.monotonic()
            except DATABASE_AWAY:
                if time.monotonic() - renewed_at > self.settings.lease_seconds:
                    raise
                log.exception("%s: the lease could not be renewed", self.claimed.job_id)
            silent = time.monotonic() - trainer.last_heard
            if silent > self.settings.progress_seconds:
                trainer.kill()
                return self.evidence.no_progress(silent)
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
                self.progress.update(self.evidence.hear(message))

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
        said = trainer.evidence()
        log.error("%s: the trainer %s\n%s", self.claimed.job_id, describe_exit(code), said)
        return self.evidence.crash(code, _last_line(said))

    def _conclude(self, loss: JobFailure | None) -> None:
        claimed = self.claimed
        with transaction(self.sessions) as session:
            if loss is not None:
                self._lose(session, loss)
            else:
                self._record(session, self.outcome or {})
            results.write_if_over(session, self.store, claimed.job_id)
        try:
            retention.release(self.sessions, self.store, claimed.job_id)
        except StoreAway as away:
            log.warning("%s: what it holds is left to the sweeper: %s", claimed.job_id, away)

    def _lose(self, session: Session, loss: JobFailure) -> None:
        """A trainer that the kernel ended for memory is followed by one that does less at a time.

        On a GPU less at a time is not less of the machine's own memory.
        """
        resolved = session.get_one(Job, self.claimed.job_id).resolved
        is_for_size = (
            loss.reason is Reason.OUT_OF_MEMORY
            and resolved.get("machine", {}).get("device") == "cpu"
            and self.evidence.grows_with_sizes()
        )
        if is_for_size:
            halved = halving.halved(resolved)
            if halved is not None:
                losses.shrink(session, self.claimed, loss, halved)
                return
            loss = self.evidence.alone(loss, resolved)
        losses.lose(session, self.claimed, loss, max_losses=self.settings.max_losses)

    def _wait(self, want: JobFailure) -> None:
        """This end of the attempt could not write: what it saved stays, and the rest waits."""
        log.error("%s: %s", self.claimed.job_id, want.message)
        try:
            with transaction(self.sessions) as session:
                losses.wait(session, self.claimed, want)
        except (LeaseLost, *DATABASE_AWAY) as away:
            # The lease runs out by itself.
            log.error("%s: nor can the database be written: %s", self.claimed.job_id, away)

    def _record(self, session: Session, said: dict[str, Any]) -> None:
        match said["outcome"]:
            case "succeeded":
                self._succeed(session, said["verdict"])
            case "failed":
                failure = JobFailure(
                    Reason(said["reason"]), said["message"], param=said.get("param")
                )
                if failure.reason in PASSING:
                    losses.wait(session, self.claimed, failure)
                else:
                    attempts.fail(session, self.claimed, failure)
            case "stopped":
                attempts.stopped(session, self.claimed)
            case "limit_reached":
                attempts.limited(session, self.claimed, said["message"])

    def _succeed(self, session: Session, verdict: str) -> None:
        attempts.conclude(session, self.claimed, Status.SUCCEEDED, reason=None, verdict=verdict)
        job = session.get(Job, self.claimed.job_id)
        assert job is not None
        name = tuned_model(job)
        events.add(session, self.claimed.job_id, f"New fine-tuned model created: {name}")
        events.add(session, self.claimed.job_id, "The job has successfully completed")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no output"
