"""What POSTs that made something were answered, so that a repeated one makes nothing new."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from jobs import ids
from jobs.db import now
from jobs.models import Creation, File, Job, Project, Upload
from jobs.status import Status

KEPT_SECONDS = 24 * 3600.0

# A client that lost an answer asks again within seconds; much later it means another one.
RETRY_SECONDS = 600.0


def queue_up(session: Session, project_id: str) -> None:
    """Wait for the project's other creations; later ones wait until this transaction ends.

    So two requests for the same thing never look for each other's answer at the same time.
    """
    session.execute(
        update(Project).where(Project.id == project_id).values(created_at=Project.created_at)
    )


def of_key(session: Session, project_id: str, idempotency_key: str) -> Creation | None:
    """What the project made under this idempotency key."""
    query = select(Creation).where(
        Creation.project_id == project_id, Creation.idempotency_key == idempotency_key
    )
    return session.scalar(query)


def has_made_lately(session: Session, key_id: str) -> bool:
    """Whether this API key made anything within RETRY_SECONDS."""
    query = select(Creation.object_id).where(
        Creation.key_id == key_id, Creation.created_at > now() - RETRY_SECONDS
    )
    return session.scalars(query.limit(1)).first() is not None


def just_made(session: Session, key_id: str, fingerprint: str) -> Creation | None:
    """What this API key made last by the same request, within RETRY_SECONDS, and is still there.

    Who deleted or cancelled it has seen its answer, so the request is a new one.
    """
    query = (
        select(Creation)
        .where(
            Creation.fingerprint == fingerprint,
            Creation.key_id == key_id,
            Creation.created_at > now() - RETRY_SECONDS,
            ~_is_gone(),
        )
        .order_by(Creation.created_at.desc())
        .limit(1)
    )
    return session.scalar(query)


def _is_gone() -> ColumnElement[bool]:
    made = Creation.object_id
    has_file = exists().where(File.id == made)
    has_upload = exists().where(Upload.id == made, Upload.status == "pending")
    has_job = exists().where(
        Job.id == made, Job.status != Status.CANCELLED, Job.cancel_requested_at.is_(None)
    )
    kinds = ((ids.FILE, has_file), (ids.UPLOAD, has_upload), (ids.JOB, has_job))
    return or_(*(and_(made.startswith(kind, autoescape=True), ~has) for kind, has in kinds))


def add(session: Session, creation: Creation) -> None:
    session.add(creation)
    session.flush()


def forget_old(session: Session) -> None:
    """Forget answers older than KEPT_SECONDS: their keys may be used anew."""
    session.execute(delete(Creation).where(Creation.created_at < now() - KEPT_SECONDS))
