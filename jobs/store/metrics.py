"""Metrics and samples: one row a step, whichever attempt wrote it last."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from jobs.db import as_json, now
from jobs.models import Job, Json, Metric, SampleSet
from jobs.store.pages import Page, page


def put(session: Session, job_id: str, *, step: int, attempt: int, data: Json) -> int | None:
    """Write the row of a step; returns the attempt whose row it replaces, None for the first.

    A resumed attempt redoes the steps after its checkpoint: the row of each is replaced, not
    doubled. An attempt finds its own where a commit was taken whose answer was lost. The caller's
    transaction holds the job's fence.
    """
    earlier = session.scalar(
        delete(Metric)
        .where(Metric.job_id == job_id, Metric.step == step)
        .returning(Metric.attempt)
        .execution_options(synchronize_session=False)
    )
    session.add(Metric(job_id=job_id, step=step, attempt=attempt, data=data))
    session.flush()
    return earlier


def put_samples(
    session: Session, job_id: str, *, step: int, attempt: int, samples: list[Json]
) -> None:
    """Write those of a step, in place of any before; the job's row knows what all of them take."""
    num_bytes = len(as_json(samples))
    replaced = session.scalars(
        delete(SampleSet)
        .where(SampleSet.job_id == job_id, SampleSet.step == step)
        .returning(SampleSet.num_bytes)
        .execution_options(synchronize_session=False)
    ).all()
    session.add(
        SampleSet(job_id=job_id, step=step, attempt=attempt, num_bytes=num_bytes, samples=samples)
    )
    session.flush()
    _add_bytes(session, job_id, num_bytes - sum(replaced))


def overdue_samples(session: Session, *, seconds: float, limit: int) -> Counter[str]:
    """How many samples of each job were written longer ago than that, the oldest of all first."""
    query = (
        select(SampleSet.job_id)
        .where(SampleSet.created_at < now() - seconds)
        .order_by(SampleSet.created_at)
        .limit(limit)
    )
    return Counter(session.scalars(query))


def remove_samples(
    session: Session, job_id: str, *, older_than: float | None = None, limit: int | None = None
) -> int:
    """Remove the samples of a job; how many bytes they were.

    Those alone that were written longer ago than that many seconds, and of the first so many steps.
    """
    # The job's row first, as a running attempt does.
    session.execute(update(Job).where(Job.id == job_id).values(sample_bytes=Job.sample_bytes))
    job = session.get_one(Job, job_id, populate_existing=True)
    which = [SampleSet.job_id == job_id]
    if older_than is not None:
        which.append(SampleSet.created_at < now() - older_than)
    if limit is not None:
        first = select(SampleSet.step).where(*which).order_by(SampleSet.step).limit(limit)
        which.append(SampleSet.step.in_(first))
    removed = session.execute(
        delete(SampleSet)
        .where(*which)
        .returning(SampleSet.step, SampleSet.num_bytes)
        .execution_options(synchronize_session=False)
    ).all()
    if not removed:
        return 0
    num_bytes: int = sum(one.num_bytes for one in removed)
    gone = max(job.samples_gone_step or 0, *(one.step for one in removed))
    _add_bytes(session, job_id, -num_bytes, samples_gone_step=gone)
    return num_bytes


def _add_bytes(session: Session, job_id: str, num_bytes: int, **values: Any) -> None:
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(sample_bytes=Job.sample_bytes + num_bytes, **values)
        .execution_options(synchronize_session=False)
    )


def list_after(session: Session, job_id: str, *, after_step: int, limit: int) -> Page[Metric]:
    """Rows with `step > after_step`, in order of steps."""
    return page(
        session,
        select(Metric).where(Metric.job_id == job_id),
        keys=(Metric.step,),
        after=(after_step,),
        limit=limit,
        newest_first=False,
    )


def series(session: Session, job_id: str, name: str) -> list[tuple[int, Any]]:
    """One metric over the steps that have it."""
    query = select(Metric).where(Metric.job_id == job_id).order_by(Metric.step)
    return [
        (row.step, row.data[name])
        for row in session.scalars(query)
        if row.data.get(name) is not None
    ]


def samples_of(session: Session, job_id: str, step: int) -> SampleSet | None:
    return session.get(SampleSet, (job_id, step))


def latest_samples(session: Session, job_id: str) -> SampleSet | None:
    query = (
        select(SampleSet).where(SampleSet.job_id == job_id).order_by(SampleSet.step.desc()).limit(1)
    )
    return session.scalar(query)
