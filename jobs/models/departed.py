"""Where things that are gone stood in their lists."""

from __future__ import annotations

from sqlalchemy import false
from sqlalchemy.orm import Mapped, mapped_column

from jobs.db import now
from jobs.models.base import Base


class Departed(Base):
    """Where something that was removed stood in its list: a cursor may still name it."""

    __tablename__ = "departed"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str]
    """The project or the job whose list it was in."""
    position: Mapped[float]
    removed_at: Mapped[float] = mapped_column(default=now(), index=True)
    is_expired: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether its time was over, and not its owner removed it."""
    left_behind: Mapped[str | None] = mapped_column(index=True)
    """Where in the artifact store its bytes lie, until they are known to be removed too."""
