"""Checkpoints: adapters at a step, and which of them an attempt may resume from."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from jobs import ids
from jobs.errors import CheckpointNotFound
from jobs.models import Checkpoint, Json
from jobs.store.pages import Page, page


def put(
    session: Session,
    job_id: str,
    *,
    step: int,
    attempt: int,
    folder: str,
    archive_sha256: str,
    archive_bytes: int,
    metrics: Json,
) -> Checkpoint:
    """Publish a checkpoint whose files are already whole. A step redone by a later attempt

    replaces its row. The caller's transaction holds the job's fence.
    """
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.step == step))
    checkpoint = Checkpoint(
        id=ids.new_id(ids.CHECKPOINT),
        job_id=job_id,
        step=step,
        attempt=attempt,
        folder=folder,
        archive_sha256=archive_sha256,
        archive_bytes=archive_bytes,
        metrics=metrics,
        has_state=True,
    )
    session.add(checkpoint)
    session.flush()
    return checkpoint


def resumable(session: Session, job_id: str) -> list[Checkpoint]:
    """Those with a training state, newest first: the caller takes the first that verifies."""
    query = (
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id, Checkpoint.has_state)
        .order_by(Checkpoint.step.desc())
    )
    return list(session.scalars(query))


def forget_state(session: Session, checkpoint_id: str) -> None:
    """From now on nobody resumes from it; its state's bytes may go."""
    session.execute(
        update(Checkpoint).where(Checkpoint.id == checkpoint_id).values(has_state=False)
    )


def latest(session: Session, job_id: str) -> Checkpoint | None:
    """The newest adapter: of a finished job, the one it ended with."""
    query = (
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id)
        .order_by(Checkpoint.step.desc())
        .limit(1)
    )
    return session.scalar(query)


def get(session: Session, job_id: str, checkpoint_id: str) -> Checkpoint:
    checkpoint = session.get(Checkpoint, checkpoint_id)
    if checkpoint is None or checkpoint.job_id != job_id:
        raise CheckpointNotFound(checkpoint_id)
    return checkpoint


def list_page(session: Session, job_id: str, *, after: str | None, limit: int) -> Page[Checkpoint]:
    """Newest first."""
    cursor = get(session, job_id, after) if after else None
    return page(
        session,
        select(Checkpoint).where(Checkpoint.job_id == job_id),
        keys=(Checkpoint.step,),
        after=(cursor.step,) if cursor else None,
        limit=limit,
    )


def folders(session: Session, job_id: str) -> set[str]:
    """The artifact folders that the job's checkpoints name."""
    return set(session.scalars(select(Checkpoint.folder).where(Checkpoint.job_id == job_id)))
