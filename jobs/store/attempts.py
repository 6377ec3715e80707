"""Claim, lease, fence: what makes one attempt at a time the only one that counts.

The claim is one conditional UPDATE that adds one to `attempt`. Every later write of that attempt
names the number; after another claim it changes no row, so a zombie can do no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.devices import Device
from jobs.errors import JobFailure, LeaseLost
from jobs.models import Job
from jobs.monitoring import QUEUE_SECONDS
from jobs.status import HELD, Phase, Reason, Status
from jobs.store import answers, events, fitting, jobs, tallies, turns
from jobs.store.clocks import has_come, lease_has_ended, was_not_rung_within
from jobs.store.turns import Place

RELEASED: dict[str, Any] = {"lease_owner": None, "lease_expires_at": None, "phase": None}


@dataclass(frozen=True)
class Claim:
    """The right to run a job, until the lease ends."""

    job_id: str
    attempt: int
    request_id: str | None = field(default=None, compare=False)
    """Of the request that made the job, for the log."""


@dataclass(frozen=True)
class Requests:
    """What the owner asks of a running attempt."""

    is_cancel: bool
    is_pause: bool


def claim(
    session: Session,
    *,
    worker: str,
    lease_seconds: float,
    device: Device = fitting.ANY_DEVICE,
    place: Place | None = None,
) -> Claim | None:
    """Take the queued job that fits the device and whose turn it is: see `turns.next_of`.

    None when nothing can be taken.
    """
    statement = (
        update(Job)
        .where(Job.id == turns.next_of(_claimable(device)), Job.status == Status.QUEUED)
        .values(
            status=Status.RUNNING,
            attempt=Job.attempt + 1,
            lease_owner=worker,
            lease_expires_at=now() + lease_seconds,
            phase=Phase.LOADING,
            reason=None,
            turned_away=None,
            started_at=func.coalesce(Job.started_at, now()),
        )
        .returning(
            Job.id,
            Job.attempt,
            Job.project_id,
            Job.request_id,
            (now() - Job.claimable_at).label("waited_seconds"),
        )
        .execution_options(synchronize_session=False)
    )
    row = session.execute(statement).first()
    if row is None:
        return None
    turns.begin(
        session,
        row.id,
        attempt=row.attempt,
        project_id=row.project_id,
        lease_seconds=lease_seconds,
        place=place,
    )
    tallies.of(session).observe(QUEUE_SECONDS, row.waited_seconds)
    goes_on = f"Fine-tuning job goes on (attempt {row.attempt})"
    events.add(session, row.id, "Fine-tuning job started" if row.attempt == 1 else goes_on)
    return Claim(job_id=row.id, attempt=row.attempt, request_id=row.request_id)


def _claimable(device: Device) -> Select[str]:
    return select(Job.id).where(
        Job.status == Status.QUEUED, has_come(Job.claimable_at), fitting.fits(device)
    )


def fence(session: Session, claimed: Claim, **values: Any) -> None:
    """Open a write of this attempt: takes the job's row lock and proves the attempt still holds it.

    Raises LeaseLost, and then the caller's transaction must not commit.
    """
    statement = (
        update(Job)
        .where(*is_held_by(claimed))
        .values(values or {"attempt": claimed.attempt})
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(statement) is None:
        raise LeaseLost(f"attempt {claimed.attempt} no longer holds {claimed.job_id}")


def renew(session: Session, claimed: Claim, *, lease_seconds: float, **values: Any) -> Requests:
    """Extend the lease and hear the owner's requests in the same statement. Raises LeaseLost."""
    statement = (
        update(Job)
        .where(*is_held_by(claimed))
        .values(lease_expires_at=now() + lease_seconds, **values)
        .returning(Job.cancel_requested_at, Job.pause_requested_at)
        .execution_options(synchronize_session=False)
    )
    row = session.execute(statement).first()
    if row is None:
        raise LeaseLost(f"attempt {claimed.attempt} no longer holds {claimed.job_id}")
    turns.go_on(session, claimed.job_id, attempt=claimed.attempt, lease_seconds=lease_seconds)
    return Requests(
        is_cancel=row.cancel_requested_at is not None,
        is_pause=row.pause_requested_at is not None,
    )


def conclude(session: Session, claimed: Claim, target: Status, **values: Any) -> None:
    """End the attempt: a terminal state, or paused. Raises LeaseLost."""
    if target is not Status.PAUSED:
        values.setdefault("finished_at", now())
        answers.forget(session, claimed.job_id)
    moved = jobs.move(
        session,
        claimed.job_id,
        target,
        where=is_held_by(claimed),
        **RELEASED,
        **values,
    )
    if not moved:
        raise LeaseLost(f"attempt {claimed.attempt} no longer holds {claimed.job_id}")


def fail(session: Session, claimed: Claim, failure: JobFailure) -> None:
    """End the job `failed` with its typed reason and sentence. Raises LeaseLost."""
    conclude(
        session,
        claimed,
        Status.FAILED,
        reason=failure.reason,
        error_message=failure.message,
        error_param=failure.param,
    )
    events.add(session, claimed.job_id, failure.message, level="error", data=failure.data)


def stopped(session: Session, claimed: Claim) -> Status:
    """The attempt saved its state and stopped, because it was asked to; the row says what for.

    Cancel wins over pause; with neither, its worker is shutting down and another goes on.
    Raises LeaseLost.
    """
    held = is_held_by(claimed)
    cancelled = {"reason": Reason.CANCELLED_BY_USER, "finished_at": now()}
    ends: tuple[tuple[Status, tuple[Any, ...], dict[str, Any], str], ...] = (
        (
            Status.CANCELLED,
            (Job.cancel_requested_at.is_not(None),),
            cancelled,
            "Fine-tuning job cancelled",
        ),
        (Status.PAUSED, (), {"reason": Reason.PAUSED_BY_USER}, "Fine-tuning job paused"),
        (
            Status.QUEUED,
            (),
            {"claimable_at": now(), "rung_at": None},
            "The worker is shutting down; the job is queued again",
        ),
    )
    for target, where, values, message in ends:
        if jobs.move(session, claimed.job_id, target, where=(*held, *where), **RELEASED, **values):
            events.add(session, claimed.job_id, message)
            return target
    raise LeaseLost(f"attempt {claimed.attempt} no longer holds {claimed.job_id}")


def limited(session: Session, claimed: Claim, message: str) -> Status:
    """The attempt reached a limit of the job's, saved its state and stopped: the job is paused.

    Cancel wins. Raises LeaseLost.
    """
    held = is_held_by(claimed)
    is_cancelled = jobs.move(
        session,
        claimed.job_id,
        Status.CANCELLED,
        where=(*held, Job.cancel_requested_at.is_not(None)),
        **RELEASED,
        reason=Reason.CANCELLED_BY_USER,
        finished_at=now(),
    )
    if is_cancelled:
        events.add(session, claimed.job_id, "Fine-tuning job cancelled")
        return Status.CANCELLED
    jobs.move(session, claimed.job_id, Status.PAUSING, where=held)
    conclude(session, claimed, Status.PAUSED, reason=Reason.LIMIT_REACHED)
    events.add(session, claimed.job_id, message, level="warn")
    return Status.PAUSED


def expired(session: Session) -> list[Claim]:
    """Held jobs whose lease has run out, less those whose row somebody has locked just now."""
    query = (
        select(Job.id, Job.attempt)
        .where(Job.status.in_(HELD), lease_has_ended())
        .with_for_update(skip_locked=True)
    )
    return [Claim(job_id=row.id, attempt=row.attempt) for row in session.execute(query)]


def seize(session: Session, claimed: Claim) -> None:
    """Take the row lock of an attempt whose lease has run out, so that it cannot renew any more.

    Raises LeaseLost when it renewed or ended since `expired` named it.
    """
    statement = (
        update(Job)
        .where(*is_held_by(claimed), lease_has_ended())
        .values(lease_owner=None)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(statement) is None:
        raise LeaseLost(f"attempt {claimed.attempt} of {claimed.job_id} is not expired any more")


def ring_due(session: Session, *, every_seconds: float) -> int:
    """How many jobs wait for a worker and nobody rang for them lately; marks them as rung."""
    # A locked row is another's business, and no reason to be silent about the rest.
    due = (
        select(Job.id)
        .where(jobs.is_for_a_worker(), was_not_rung_within(every_seconds))
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Job)
        .where(Job.id.in_(due))
        .values(rung_at=now())
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return len(session.execute(statement).all())


def is_held_by(claimed: Claim) -> tuple[Any, ...]:
    """That the attempt is the job's and holds it, for a WHERE clause."""
    return (Job.id == claimed.job_id, Job.attempt == claimed.attempt, Job.status.in_(HELD))
