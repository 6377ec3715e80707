"""Files, and uploads that become files part by part."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from jobs.db import now
from jobs.models.base import Base


class File(Base):
    """An uploaded file; its bytes live in the artifact store under its id."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "project_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    created_at: Mapped[float] = mapped_column(default=now())
    expires_at: Mapped[float | None] = mapped_column(index=True)
    """From then on it is not seen any more; the sweeper removes it."""


class Upload(Base):
    """A file that is sent in parts: what was announced, and the file once it is complete."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index(None, "status", "expires_at"),
        Index(None, "project_id", "status"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    """What the parts have to come to."""
    file_lives_seconds: Mapped[int | None]
    status: Mapped[str] = mapped_column(default="pending")
    created_at: Mapped[float] = mapped_column(default=now())
    expires_at: Mapped[float]


class UploadPart(Base):
    """A part; its bytes lie in the upload's folder under its id."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float] = mapped_column(default=now())
