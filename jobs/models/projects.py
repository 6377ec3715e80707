"""Projects, and the keys that speak for them."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from jobs.db import now
from jobs.models.base import Base


class Project(Base):
    """What keys and everything they make belong to; nothing is seen from another project."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float] = mapped_column(default=now())
    quota_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What it may store; null is what the settings say, UNLIMITED (-1) is no limit."""


class ApiKey(Base):
    """A key's hash: the key itself is shown once and never stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    shown_prefix: Mapped[str]
    """The first characters, so that a person can tell keys apart in a list."""
    sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[str] = mapped_column(server_default="train")
    """Words of `jobs.scopes`, with spaces between."""
    created_at: Mapped[float] = mapped_column(default=now())
    last_used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class Creation(Base):
    """What a POST that made something was answered: its repetition makes nothing new."""

    __tablename__ = "creations"
    __table_args__ = (
        Index(None, "project_id", "idempotency_key", unique=True),
        Index(None, "fingerprint"),
        Index(None, "created_at"),
    )

    object_id: Mapped[str] = mapped_column(primary_key=True)
    """The id of what was made."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[str]
    """A sha256 of the route and the body."""
    answer: Mapped[str]
    """The body of the answer, as it was sent."""
    created_at: Mapped[float] = mapped_column(default=now())
