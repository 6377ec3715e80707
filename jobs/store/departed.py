"""Where things that are gone stood in their list, so that a walk through it goes on from there."""

from __future__ import annotations

from sqlalchemy import case, delete, select, update
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.models import Departed

# Nobody takes longer from one page to the next.
KEPT_SECONDS = 24 * 3600.0

# Who looks for what is gone because its time was over is told so for a year.
EXPIRED_KEPT_SECONDS = 366 * 24 * 3600.0


def note(
    session: Session,
    object_id: str,
    *,
    owner_id: str,
    position: float,
    is_expired: bool = False,
    left_behind: str | None = None,
) -> None:
    """Remember what was removed in the caller's transaction, by the first key of its list.

    Bytes that are `left_behind` in the artifact store are the caller's to remove after the commit;
    where it does not come to that, the sweeper does.
    """
    session.add(
        Departed(
            id=object_id,
            owner_id=owner_id,
            position=position,
            is_expired=is_expired,
            left_behind=left_behind,
        )
    )
    session.flush()


def has_expired(session: Session, object_id: str, *, owner_id: str) -> bool:
    """Whether it was there until its time was over."""
    query = select(Departed.id).where(
        Departed.id == object_id, Departed.owner_id == owner_id, Departed.is_expired
    )
    return session.scalar(query) is not None


def has_expired_at(session: Session, *, owner_id: str, position: float) -> bool:
    """Whether something stood at that place until its time was over."""
    query = select(Departed.id).where(
        Departed.owner_id == owner_id, Departed.position == position, Departed.is_expired
    )
    return session.scalars(query.limit(1)).first() is not None


def with_bytes_left(session: Session, *, limit: int) -> list[Departed]:
    """Those whose bytes are not known to be removed."""
    query = select(Departed).where(Departed.left_behind.is_not(None)).limit(limit)
    return list(session.scalars(query))


def bytes_are_gone(session: Session, object_id: str) -> None:
    session.execute(update(Departed).where(Departed.id == object_id).values(left_behind=None))


def position(session: Session, object_id: str, *, owner_id: str) -> float | None:
    """Where it stood in its owner's list; None where it never did, or long ago."""
    query = select(Departed.position).where(Departed.id == object_id, Departed.owner_id == owner_id)
    return session.scalar(query)


def forget_old(session: Session) -> None:
    """Forget those that nobody asks for any more, and nothing is left of."""
    kept = case((Departed.is_expired, EXPIRED_KEPT_SECONDS), else_=KEPT_SECONDS)
    session.execute(
        delete(Departed).where(Departed.removed_at < now() - kept, Departed.left_behind.is_(None))
    )
