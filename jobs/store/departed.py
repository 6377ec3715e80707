"""Where things that are gone stood in their list, so that a walk through it goes on from there."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.models import Departed

# Nobody takes longer from one page to the next.
KEPT_SECONDS = 24 * 3600.0


def note(session: Session, object_id: str, *, owner_id: str, position: float) -> None:
    """Remember what was removed in the caller's transaction, by the first key of its list."""
    session.add(Departed(id=object_id, owner_id=owner_id, position=position))
    session.flush()


def position(session: Session, object_id: str, *, owner_id: str) -> float | None:
    """Where it stood in its owner's list; None where it never did, or long ago."""
    query = select(Departed.position).where(Departed.id == object_id, Departed.owner_id == owner_id)
    return session.scalar(query)


def forget_old(session: Session) -> None:
    session.execute(delete(Departed).where(Departed.removed_at < now() - KEPT_SECONDS))
