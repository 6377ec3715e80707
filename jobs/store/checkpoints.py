"""Checkpoints: adapters at a step, and which of them an attempt may resume from."""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, exists, select, update
from sqlalchemy.orm import Session, aliased

from jobs import ids
from jobs.db import now
from jobs.errors import CheckpointNotFound, Expired
from jobs.models import Checkpoint, CheckpointPermission, Job, Json
from jobs.status import TERMINAL
from jobs.store import departed
from jobs.store.pages import Page, page

NUM_BEST = 3
JUDGED_BY = "valid_reward_mean"
EXPIRED = (
    "{} has expired: of jobs that are over, this server keeps checkpoints beside the best and the "
    "last for some time only. GET .../checkpoints lists those that are left."
)


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
    kept_bytes: int = 0,
    state_bytes: int = 0,
) -> Checkpoint:
    """Publish a checkpoint whose files are already whole. A step redone by a later attempt

    replaces its row. The caller's transaction holds the job's fence. `state_bytes` is what its
    training state takes, `kept_bytes` all else in its folder.
    """
    _delete(session, Checkpoint.job_id == job_id, Checkpoint.step == step)
    checkpoint = Checkpoint(
        id=ids.new_id(ids.CHECKPOINT),
        job_id=job_id,
        step=step,
        attempt=attempt,
        folder=folder,
        archive_sha256=archive_sha256,
        archive_bytes=archive_bytes,
        kept_bytes=kept_bytes,
        state_bytes=state_bytes,
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


def forget_states(session: Session, job_id: str) -> None:
    """As `forget_state`, of all checkpoints of a job that is over."""
    session.execute(update(Checkpoint).where(Checkpoint.job_id == job_id).values(has_state=False))


def unreleased(session: Session) -> list[str]:
    """Jobs that are over and still hold what only a resume needs."""
    query = (
        select(Checkpoint.job_id)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Job.status.in_(TERMINAL), Checkpoint.has_state)
        .distinct()
    )
    return list(session.scalars(query))


def retire(session: Session, job_id: str, *, is_over: bool = False) -> list[Checkpoint]:
    """Drop the rows of those that nobody needs, and return them: their bytes may go.

    Of an evaluated job the best by held-out reward are kept, the newer of equals, beside the newest
    and, until the job is over, those that an attempt may resume from; of a job without held-out
    rows all are kept.
    """
    query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc())
    every = list(session.scalars(query))
    evaluated = [one for one in every if one.metrics.get(JUDGED_BY) is not None]
    if not evaluated:
        return []
    best = sorted(evaluated, key=lambda one: one.metrics[JUDGED_BY], reverse=True)[:NUM_BEST]
    kept = {one.id for one in (every[0], *best)}
    retired = [one for one in every if one.id not in kept and (is_over or not one.has_state)]
    for checkpoint in retired:
        remove(session, checkpoint)
    return retired


def remove(session: Session, checkpoint: Checkpoint) -> None:
    """Remove its row and its permissions; the bytes are the caller's to remove."""
    session.execute(
        delete(CheckpointPermission).where(
            CheckpointPermission.job_id == checkpoint.job_id,
            CheckpointPermission.step == checkpoint.step,
        )
    )
    _delete(session, Checkpoint.id == checkpoint.id)


def overdue(session: Session, *, seconds: float, limit: int) -> list[Checkpoint]:
    """Of jobs that are over for longer than that, those beside the best and the last.

    Less those that another project may use. Of an evaluated job the end left no others.
    """
    newer = aliased(Checkpoint)
    query = (
        select(Checkpoint)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(
            Job.status.in_(TERMINAL),
            Job.finished_at < now() - seconds,
            ~Checkpoint.has_state,
            Checkpoint.metrics[JUDGED_BY].as_float().is_(None),
            exists().where(newer.job_id == Checkpoint.job_id, newer.step > Checkpoint.step),
            ~exists().where(
                CheckpointPermission.job_id == Checkpoint.job_id,
                CheckpointPermission.step == Checkpoint.step,
            ),
        )
    )
    return list(session.scalars(query.limit(limit)))


def expire(session: Session, checkpoint: Checkpoint) -> None:
    """Remove one of `overdue`; the bytes are the caller's to remove, after the commit."""
    _delete(session, Checkpoint.id == checkpoint.id, is_expired=True)


def _delete(session: Session, *which: ColumnElement[bool], is_expired: bool = False) -> None:
    statement = (
        delete(Checkpoint)
        .where(*which)
        .returning(Checkpoint.id, Checkpoint.job_id, Checkpoint.step, Checkpoint.folder)
    )
    for gone, job_id, step, folder in session.execute(statement).all():
        departed.note(
            session,
            gone,
            owner_id=job_id,
            position=step,
            is_expired=is_expired,
            left_behind=folder if is_expired else None,
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
    if checkpoint is not None and checkpoint.job_id == job_id:
        return checkpoint
    if departed.has_expired(session, checkpoint_id, owner_id=job_id):
        raise Expired(EXPIRED.format(f"Checkpoint {checkpoint_id}"), param="checkpoint_id")
    raise CheckpointNotFound(checkpoint_id)


def list_page(session: Session, job_id: str, *, after: str | None, limit: int) -> Page[Checkpoint]:
    """Newest first."""
    return page(
        session,
        select(Checkpoint).where(Checkpoint.job_id == job_id),
        keys=(Checkpoint.step,),
        after=(_position(session, job_id, after),) if after else None,
        limit=limit,
    )


def _position(session: Session, job_id: str, checkpoint_id: str) -> float:
    """Where the list goes on after a checkpoint, which may have left it since."""
    query = select(Checkpoint.step).where(
        Checkpoint.id == checkpoint_id, Checkpoint.job_id == job_id
    )
    step: float | None = session.scalar(query)
    if step is None:
        step = departed.position(session, checkpoint_id, owner_id=job_id)
    if step is None:
        raise CheckpointNotFound(checkpoint_id, param="after")
    return step


def folders(session: Session, job_id: str) -> set[str]:
    """The artifact folders that the job's checkpoints name."""
    return set(session.scalars(select(Checkpoint.folder).where(Checkpoint.job_id == job_id)))
