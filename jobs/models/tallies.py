"""Numbers that only grow, added up by every process."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from jobs.models.base import Base


class Tally(Base):
    """A counter's number, or a part of a histogram's: see `jobs.store.tallies`."""

    __tablename__ = "tallies"

    name: Mapped[str] = mapped_column(primary_key=True)
    labels: Mapped[str] = mapped_column(primary_key=True)
    """A JSON object, its keys sorted."""
    value: Mapped[float]
