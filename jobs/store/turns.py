"""Turns on devices: what each attempt held one for, and so whose job is taken next.

A turn's `until` is the end of its lease for as long as it runs: one whose worker is gone ends with
the lease, whether or not anybody notices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, Select, case, delete, func, select, update
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.models import Job, Turn

# A project's device time is that of the last day.
WINDOW_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Place:
    """A slot of a worker."""

    worker: str
    slot: int


def begin(
    session: Session,
    job_id: str,
    *,
    attempt: int,
    project_id: str,
    lease_seconds: float,
    place: Place | None,
) -> None:
    """The attempt has a device from now on."""
    turn = Turn(job_id=job_id, attempt=attempt, project_id=project_id, until=now() + lease_seconds)
    if place is not None:
        turn.worker, turn.slot = place.worker, place.slot
    session.add(turn)
    session.flush()


def go_on(session: Session, job_id: str, *, attempt: int, lease_seconds: float) -> None:
    """The attempt has renewed its lease."""
    session.execute(
        update(Turn)
        .where(Turn.job_id == job_id, Turn.attempt == attempt)
        .values(until=now() + lease_seconds)
        .execution_options(synchronize_session=False)
    )


def end(session: Session, job_id: str) -> None:
    """No attempt of the job holds a device any more; a turn that ended with its lease stays so."""
    session.execute(
        update(Turn)
        .where(Turn.job_id == job_id, Turn.until > now())
        .values(until=now())
        .execution_options(synchronize_session=False)
    )


def next_of(waiting: Select[Any]) -> ScalarSelect[Any]:
    """The one of a query of jobs' ids that is taken next, locked, unless another claims it now.

    Highest priority, then the project with the least device time, then the oldest.
    """
    used = _used().subquery("used")
    query = waiting.outerjoin(used, used.c.project_id == Job.project_id).order_by(
        Job.priority.desc(), func.coalesce(used.c.seconds, 0.0), Job.created_at, Job.id
    )
    return query.limit(1).with_for_update(skip_locked=True, of=Job).scalar_subquery()


def device_seconds(session: Session) -> dict[str, float]:
    """Each project's device time within the last day, running attempts included."""
    return {row.project_id: row.seconds for row in session.execute(_used())}


def forget_old(session: Session) -> None:
    """Forget turns that count for nothing any more."""
    long_ago = now() - WINDOW_SECONDS
    session.execute(
        delete(Turn)
        .where(Turn.started_at < long_ago, Turn.until < long_ago)
        .execution_options(synchronize_session=False)
    )


def _used() -> Select[str, float]:
    # One time for all rows. Turns that begin in the future, or end before they began, are of a
    # clock that was set back since.
    time = select(now()).scalar_subquery()
    since = time - WINDOW_SECONDS
    seconds = _least(Turn.until, time) - _greatest(Turn.started_at, since)
    return (
        select(Turn.project_id, func.sum(seconds).label("seconds"))
        .where(Turn.until > since, Turn.started_at < time, Turn.until > Turn.started_at)
        .group_by(Turn.project_id)
    )


def _least(one: Any, other: Any) -> ColumnElement[float]:
    return case((one < other, one), else_=other)


def _greatest(one: Any, other: Any) -> ColumnElement[float]:
    return case((one > other, one), else_=other)
