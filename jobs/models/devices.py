"""Devices that workers offer: whose turns they served, and whether they are sound."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, false
from sqlalchemy.orm import Mapped, mapped_column

from jobs.db import now
from jobs.models.base import Base, Json


class Turn(Base):
    """An attempt's time on a device: what a project's share of the devices is counted from."""

    __tablename__ = "turns"
    __table_args__ = (Index(None, "worker", "slot"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    worker: Mapped[str | None]
    slot: Mapped[int | None]
    started_at: Mapped[float] = mapped_column(default=now(), index=True)
    until: Mapped[float]
    """The end of its lease while it runs, then its own."""
    was_lost_early: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It was lost before its first step."""


class DeviceHealth(Base):
    """A slot of a worker, as it was found last."""

    __tablename__ = "devices"

    worker: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    kind: Mapped[str]
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    seen_at: Mapped[float] = mapped_column(default=now(), index=True)
    """When its worker last looked for a job for it."""
    is_healthy: Mapped[bool] = mapped_column(default=True)
    evidence: Mapped[Json | None]
    """What its last self-test found: see `worker/examiner.py`."""
    tested_at: Mapped[float | None]
    test_at: Mapped[float | None]
    """When an unhealthy one is tested again."""
    num_failed: Mapped[int] = mapped_column(default=0)
    """Self-tests that failed in a row."""
