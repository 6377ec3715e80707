"""Models that jobs made: found by name, listed, deleted by their owner."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, exists, or_, select
from sqlalchemy.orm import Session

from jobs import ids
from jobs.errors import Expired, ModelNotFound, NotOwner, WrongState
from jobs.models import Checkpoint, CheckpointPermission, Job
from jobs.names import tuned_checkpoint, tuned_model
from jobs.status import TERMINAL, Status
from jobs.store import checkpoints, departed

# A base may hold slashes and a suffix anything; the job's own part comes last.
_NAME = re.compile(r"ft:.+:([0-9a-f]{24})(?::ckpt-step-([0-9]{1,9}))?", re.DOTALL)


@dataclass(frozen=True)
class TunedModel:
    """A name that can be sampled, and the adapter behind it."""

    name: str
    job: Job
    checkpoint: Checkpoint


def find(session: Session, project_id: str, name: str) -> TunedModel:
    """The model of that name, the project's own or one it was permitted. Raises ModelNotFound.

    `ft:...` is what a job ended with, `ft:...:ckpt-step-N` what it was at a step.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise _unknown(name)
    query = _visible(project_id).where(Job.id == ids.JOB + parts[1])
    is_final = parts[2] is None
    query = query.where(_is_final() if is_final else Checkpoint.step == int(parts[2]))
    row = session.execute(query).first()
    if row is None:
        raise _absent(session, project_id, name, job_id=ids.JOB + parts[1], step=parts[2])
    job, checkpoint = row
    known = tuned_model(job) if is_final else tuned_checkpoint(job, checkpoint.step)
    if name != known:
        raise _unknown(name)
    return TunedModel(name, job, checkpoint)


def _absent(
    session: Session, project_id: str, name: str, *, job_id: str, step: str | None
) -> ModelNotFound:
    job = session.get(Job, job_id)
    if job is not None and job.project_id == project_id and step is not None:
        is_known = name == tuned_checkpoint(job, int(step))
        if is_known and departed.has_expired_at(session, owner_id=job_id, position=int(step)):
            return ModelNotFound(
                checkpoints.EXPIRED.format(f"The model '{name}'"), code=Expired.code
            )
    return _unknown(name)


def find_owned(session: Session, project_id: str, name: str) -> TunedModel:
    """As `find`, for what only the owner may do. Raises NotOwner where it was only permitted."""
    tuned = find(session, project_id, name)
    if tuned.job.project_id != project_id:
        raise NotOwner(
            f"The model '{name}' belongs to the project {tuned.job.project_id}, which lets this "
            "project use it; only its owner may delete or share it.",
            param="model",
        )
    return tuned


def list_all(session: Session, project_id: str) -> list[TunedModel]:
    """Every name the project may use, the newest first; what a job ended with has two."""
    query = _visible(project_id).order_by(Checkpoint.created_at.desc(), Checkpoint.id.desc())
    models = []
    for job, checkpoint in session.execute(query):
        if job.status == Status.SUCCEEDED and checkpoint.step == job.step:
            models.append(TunedModel(tuned_model(job), job, checkpoint))
        models.append(TunedModel(tuned_checkpoint(job, checkpoint.step), job, checkpoint))
    return models


def remove(session: Session, tuned: TunedModel) -> None:
    """Remove its checkpoint's row and permissions; the bytes are the caller's to remove.

    Raises WrongState while the job may still go on from it, and for the checkpoint that is the
    job's fine-tuned model: that one goes by its own name, lest it be lost by mistake.
    """
    job = tuned.job
    if job.status not in TERMINAL:
        raise WrongState(
            f"The model '{tuned.name}' belongs to job {job.id}, which is {job.status} and may go "
            "on from it: cancel the job, or wait until it has finished.",
            param="model",
        )
    whole = tuned_model(job)
    if job.status == Status.SUCCEEDED and tuned.checkpoint.step == job.step and tuned.name != whole:
        raise WrongState(
            f"The model '{tuned.name}' is what job {job.id} ended with: '{whole}' is the same "
            f"adapter. Delete '{whole}', and both names are gone.",
            param="model",
        )
    checkpoints.remove(session, tuned.checkpoint)


def _visible(project_id: str) -> Select[Job, Checkpoint]:
    is_permitted = exists().where(
        CheckpointPermission.job_id == Checkpoint.job_id,
        CheckpointPermission.step == Checkpoint.step,
        CheckpointPermission.project_id == project_id,
    )
    return (
        select(Job, Checkpoint)
        .join(Checkpoint, Checkpoint.job_id == Job.id)
        .where(or_(Job.project_id == project_id, is_permitted))
    )


def _is_final() -> Any:
    return and_(Job.status == Status.SUCCEEDED, Checkpoint.step == Job.step)


def _unknown(name: str) -> ModelNotFound:
    return ModelNotFound(f"The model '{name}' does not exist here; GET /v1/models lists them.")
