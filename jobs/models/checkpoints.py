"""Saved adapters, and which projects may use them."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from jobs.db import now
from jobs.models.base import Base, Json


class Checkpoint(Base):
    """An adapter at a step, published: its files are whole before this row exists."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index(None, "job_id", "step", unique=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    step: Mapped[int]
    attempt: Mapped[int]
    created_at: Mapped[float] = mapped_column(default=now())
    folder: Mapped[str]
    """Relative to the artifact store: `adapter.tar` and, while it may be resumed from, `state/`."""
    archive_sha256: Mapped[str]
    archive_bytes: Mapped[int] = mapped_column(BigInteger)
    kept_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """All that its folder holds beside `state/`."""
    state_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Of `state/`, for as long as `has_state`."""
    metrics: Mapped[Json]
    has_state: Mapped[bool]


class CheckpointPermission(Base):
    """Another project may use the model that a job was at a step."""

    __tablename__ = "checkpoint_permissions"
    __table_args__ = (Index(None, "job_id", "step", "project_id", unique=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    step: Mapped[int]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    created_at: Mapped[float] = mapped_column(default=now())
