"""Validation of a new job's files: who does it, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.errors import JobFailure
from jobs.models import Job
from jobs.status import Status
from jobs.store import events, jobs
from jobs.store.attempts import RELEASED
from jobs.store.clocks import lease_has_ended


@dataclass(frozen=True)
class Waiting:
    """A job taken for validation."""

    job_id: str
    num_tries: int
    """How often it has been taken, this time included; above one, a validator never came back."""
    request_id: str | None = field(default=None, compare=False)
    """Of the request that made the job, for the log."""


def claim(session: Session, *, worker: str, lease_seconds: float) -> Waiting | None:
    """Take the oldest job whose files wait for validation.

    A second validator would do no harm (its result moves the job only once); the lease only saves
    the work.
    """
    candidate = (
        select(Job.id)
        .where(
            Job.status == Status.VALIDATING_FILES,
            lease_has_ended(),
        )
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(Job)
        .where(Job.id == candidate, Job.status == Status.VALIDATING_FILES)
        .values(
            lease_owner=worker,
            lease_expires_at=now() + lease_seconds,
            num_losses=Job.num_losses + 1,
        )
        .returning(Job.id, Job.request_id, Job.num_losses)
        .execution_options(synchronize_session=False)
    )
    row = session.execute(statement).first()
    if row is None:
        return None
    return Waiting(job_id=row.id, num_tries=row.num_losses, request_id=row.request_id)


def renew(session: Session, job_id: str, *, worker: str, lease_seconds: float) -> bool:
    """Go on validating; False when the job was cancelled or taken by another validator."""
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status == Status.VALIDATING_FILES, Job.lease_owner == worker)
        .values(lease_expires_at=now() + lease_seconds)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(statement) is not None


def admit(session: Session, job_id: str, **values: Any) -> bool:
    """Files are valid: the job joins the queue. False when it was cancelled meanwhile."""
    admitted = jobs.move(
        session,
        job_id,
        Status.QUEUED,
        where=(Job.status == Status.VALIDATING_FILES,),
        **RELEASED,
        num_losses=0,
        validated_at=now(),
        claimable_at=now(),
        rung_at=None,
        **values,
    )
    if admitted:
        events.add(session, job_id, "Files validated, moving job to queued state")
    return admitted


def refuse(session: Session, job_id: str, failure: JobFailure) -> bool:
    """Files or model are not fit: the job ends `failed`. False when it was cancelled meanwhile."""
    refused = jobs.move(
        session,
        job_id,
        Status.FAILED,
        where=(Job.status == Status.VALIDATING_FILES,),
        **RELEASED,
        reason=failure.reason,
        error_message=failure.message,
        error_param=failure.param,
        finished_at=now(),
    )
    if refused:
        events.add(session, job_id, failure.message, level="error", data=failure.data)
    return refused
