"""Permissions of a checkpoint: which other projects may use it as a model."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from jobs import ids
from jobs.errors import PermissionNotFound, ProjectNotFound
from jobs.models import CheckpointPermission, Project
from jobs.store.pages import Page, page
from jobs.store.tuned_models import TunedModel


def grant(
    session: Session, tuned: TunedModel, project_id: str
) -> tuple[CheckpointPermission, bool]:
    """The project's permission, and whether it is new. Raises ProjectNotFound."""
    if session.get(Project, project_id) is None:
        raise ProjectNotFound(project_id)
    job_id, step = tuned.job.id, tuned.checkpoint.step
    query = select(CheckpointPermission).where(
        CheckpointPermission.job_id == job_id,
        CheckpointPermission.step == step,
        CheckpointPermission.project_id == project_id,
    )
    permission = session.scalar(query)
    if permission is not None:
        return permission, False
    permission = CheckpointPermission(
        id=ids.new_id(ids.PERMISSION), job_id=job_id, step=step, project_id=project_id
    )
    session.add(permission)
    session.flush()
    session.refresh(permission)
    return permission, True


def get(
    session: Session, tuned: TunedModel, permission_id: str, *, param: str = "permission_id"
) -> CheckpointPermission:
    permission = session.get(CheckpointPermission, permission_id)
    of = (tuned.job.id, tuned.checkpoint.step)
    if permission is None or (permission.job_id, permission.step) != of:
        raise PermissionNotFound(permission_id, param=param)
    return permission


def list_page(
    session: Session,
    tuned: TunedModel,
    *,
    after: str | None,
    limit: int,
    newest_first: bool,
    project_id: str | None,
) -> Page[CheckpointPermission]:
    query = select(CheckpointPermission).where(
        CheckpointPermission.job_id == tuned.job.id,
        CheckpointPermission.step == tuned.checkpoint.step,
    )
    if project_id is not None:
        query = query.where(CheckpointPermission.project_id == project_id)
    cursor = get(session, tuned, after, param="after") if after else None
    return page(
        session,
        query,
        keys=(CheckpointPermission.created_at, CheckpointPermission.id),
        after=(cursor.created_at, cursor.id) if cursor else None,
        limit=limit,
        newest_first=newest_first,
    )


def revoke(session: Session, permission: CheckpointPermission) -> None:
    session.execute(delete(CheckpointPermission).where(CheckpointPermission.id == permission.id))
