"""Attempts that were lost: what becomes of their jobs, and when those may be claimed again.

A lost job is queued again and backs off, for longer each time. Lost to the same again and again
with no training state saved between it ends, with that evidence; and so it does after many losses
of several kinds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from jobs.db import now
from jobs.errors import JobFailure, LeaseLost
from jobs.halving import Halved
from jobs.models import Job, Json
from jobs.monitoring import LOSSES
from jobs.status import HELD, Reason, Status
from jobs.store import attempts, events, jobs, tallies
from jobs.store.attempts import Claim

FIRST_SECONDS = 1.0
GROWTH = 5.0
MOST_SECONDS = 300.0

# Losses that are not alike end a job too, at this many times as many.
MAX_KINDS = 3


def lose(session: Session, claimed: Claim, loss: JobFailure, *, max_losses: int) -> Status:
    """An attempt was lost to the machine room: requeue the job, or end it when that was the last.

    A job whose owner asked to cancel or pause gets that instead. Raises LeaseLost.
    """
    job = _held(session, claimed)
    tallies.of(session).count(LOSSES, reason=loss.reason.value)
    granted = _granted(session, claimed, job, loss)
    if granted is not None:
        return granted
    num_losses, lost = job.num_losses + 1, _told(job, loss)
    lost["num"] = min(lost["num"], num_losses)  # a training state was saved since the others
    for num, which in ((lost["num"], " like this"), (num_losses // MAX_KINDS, "")):
        if num >= max_losses:
            total = lost["num"] if which else num_losses
            failure = JobFailure(
                loss.reason,
                f"{loss.message} This was attempt {claimed.attempt}; {total} attempts in a row "
                f"ended{which} with no training state saved between, so the job is not retried.",
                data=loss.data,
            )
            attempts.fail(session, claimed, failure)
            return Status.FAILED
    _requeue(session, claimed, loss, lost, num_losses=num_losses)
    return Status.QUEUED


def wait(session: Session, claimed: Claim, want: JobFailure) -> Status:
    """An attempt ended for want of what will be there again: the job waits, however long it takes.

    That is no loss of the job's. A cancel or a pause is granted. Raises LeaseLost.
    """
    job = _held(session, claimed)
    tallies.of(session).count(LOSSES, reason=want.reason.value)
    granted = _granted(session, claimed, job, want)
    if granted is not None:
        return granted
    _requeue(session, claimed, want, _told(job, want))
    return Status.QUEUED


def shrink(session: Session, claimed: Claim, loss: JobFailure, halved: Halved) -> Status:
    """The kernel ended an attempt for memory: the next one does with less at a time.

    There is an end to the halving, so that is no loss that counts. Raises LeaseLost.
    """
    job = _held(session, claimed)
    tallies.of(session).count(LOSSES, reason=loss.reason.value)
    granted = _granted(session, claimed, job, loss)
    if granted is not None:
        return granted
    smaller = JobFailure(loss.reason, f"{loss.message} {halved.sentence}", data=loss.data)
    told = {**_told(job, smaller), "num": 0}
    _requeue(session, claimed, smaller, told, resolved=halved.resolved)
    return Status.QUEUED


def sentence(job: Job) -> str | None:
    """Why a queued job waits, where an attempt was lost: what happened, and how long it waits."""
    if job.lost is None or job.lost["attempt"] != job.attempt:
        return None
    until = datetime.fromtimestamp(job.claimable_at, UTC)
    return f"{job.lost['message']} The job is tried again from {until:%Y-%m-%d %H:%M:%S} UTC on."


def _held(session: Session, claimed: Claim) -> Job:
    job = session.get(Job, claimed.job_id, populate_existing=True)
    if job is None or job.attempt != claimed.attempt or job.status not in HELD:
        raise LeaseLost(f"attempt {claimed.attempt} no longer holds {claimed.job_id}")
    return job


def _granted(session: Session, claimed: Claim, job: Job, loss: JobFailure) -> Status | None:
    """What the owner has asked for, done; None where nothing was asked."""
    if job.cancel_requested_at is not None:
        attempts.conclude(session, claimed, Status.CANCELLED, reason=Reason.CANCELLED_BY_USER)
        events.add(session, job.id, "Fine-tuning job cancelled")
        return Status.CANCELLED
    if job.status == Status.PAUSING:
        attempts.conclude(session, claimed, Status.PAUSED, reason=Reason.PAUSED_BY_USER)
        events.add(session, job.id, f"Fine-tuning job paused ({loss.message})")
        return Status.PAUSED
    return None


def _told(job: Job, loss: JobFailure) -> Json:
    """The loss as it is kept, and how many in a row were like it. `ended` is how a process did."""
    evidence = [loss.reason, (loss.data or {}).get("ended")]
    before = job.lost or {}
    num = before["num"] + 1 if before.get("evidence") == evidence else 1
    return {"attempt": job.attempt, "evidence": evidence, "num": num, "message": loss.message}


def _requeue(session: Session, claimed: Claim, loss: JobFailure, lost: Json, **values: Any) -> None:
    delay = min(MOST_SECONDS, FIRST_SECONDS * GROWTH ** min(max(lost["num"] - 1, 0), 10))
    moved = jobs.move(
        session,
        claimed.job_id,
        Status.QUEUED,
        where=attempts.is_held_by(claimed),
        **attempts.RELEASED,
        reason=loss.reason,
        lost=lost,
        claimable_at=now() + delay,
        rung_at=None,
        **values,
    )
    if not moved:
        raise LeaseLost(f"attempt {claimed.attempt} no longer holds {claimed.job_id}")
    message = (
        f"{loss.message} The job is queued again, waits {delay:g} s and goes on from its last "
        "saved state."
    )
    events.add(session, claimed.job_id, message, level="warn", data=loss.data)
