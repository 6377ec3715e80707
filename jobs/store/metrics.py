"""Metrics and samples: one row a step, whichever attempt wrote it last."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from jobs.models import Json, Metric, SampleSet
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
    session.execute(delete(SampleSet).where(SampleSet.job_id == job_id, SampleSet.step == step))
    session.add(SampleSet(job_id=job_id, step=step, attempt=attempt, samples=samples))
    session.flush()


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
