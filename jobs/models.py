"""The tables. Times are unix seconds by the database's clock (`jobs.db.now`), in UTC."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, Integer, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobs.columns import Prose
from jobs.db import now
from jobs.status import Status

Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        str: Text(),
        float: Double(),
        Json: JSON(),
        list[Json]: JSON(),
    }


class Project(Base):
    """What keys and everything they make belong to; nothing is seen from another project."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float] = mapped_column(default=now())


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
    __table_args__ = (Index(None, "status", "expires_at"),)

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


class Job(Base):
    """A job as asked for (`spec`), as resolved (`resolved`), and where its life stands."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "status", "priority", "created_at"),
        Index(None, "project_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[float] = mapped_column(default=now())

    spec: Mapped[Json]
    """The request's body, validated; never changed afterwards."""
    resolved: Mapped[Json] = mapped_column(default=dict)
    """Every number that `auto` or the machine decided, by the validator and the first attempt."""
    model: Mapped[str]
    training_file: Mapped[str]
    validation_file: Mapped[str | None]
    seed: Mapped[int]
    priority: Mapped[int] = mapped_column(default=0)

    status: Mapped[str] = mapped_column(default=Status.VALIDATING_FILES)
    phase: Mapped[str | None]
    reason: Mapped[str | None]
    error_message: Mapped[str | None] = mapped_column(Prose())
    error_param: Mapped[str | None]

    attempt: Mapped[int] = mapped_column(default=0)
    """The fencing number: each claim adds one, and only its holder's writes count."""
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[float | None]
    num_losses: Mapped[int] = mapped_column(default=0)
    """Attempts lost in a row with no training state saved between."""
    lost: Mapped[Json | None]
    """What the last of them was lost to, and how many were like it: see `losses`."""
    claimable_at: Mapped[float] = mapped_column(default=now())
    """Not claimed before this time: an attempt that was lost backs off."""
    rung_at: Mapped[float | None]
    memory_cpu_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Forecast of the peak on a machine without a GPU; null before validation."""
    memory_cuda_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Forecast of the peak on a GPU."""
    turned_away: Mapped[Json | None]
    """Per kind of device, why one could not take the waiting job: see `fitting.decline`."""
    cancel_requested_at: Mapped[float | None]
    pause_requested_at: Mapped[float | None]

    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    trained_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    progress: Mapped[Json] = mapped_column(default=dict)
    """What a person wants to see while it runs: done and total of the phase."""
    event_seq: Mapped[int] = mapped_column(default=0)
    spent: Mapped[Json] = mapped_column(default=dict, server_default="{}")
    """Of the job's `limits`, since it was made or last resumed."""

    validated_at: Mapped[float | None]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    estimated_finish_at: Mapped[float | None]
    verdict: Mapped[str | None]
    result_file: Mapped[str | None]


class JobMetadata(Base):
    """The owner's labels of a job once more, a row each: lists are filtered by them."""

    __tablename__ = "job_metadata"
    __table_args__ = (Index(None, "key", "value"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Event(Base):
    """What happened, in order, without gaps: `seq` counts from 1 within a job."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    created_at: Mapped[float] = mapped_column(default=now())
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str] = mapped_column(Prose())
    data: Mapped[Json | None]


class Metric(Base):
    """One row a step, with its evaluation in the same row where there was one."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    created_at: Mapped[float] = mapped_column(default=now())
    data: Mapped[Json]


class SampleSet(Base):
    """The completions of one step, with their rewards and advantages."""

    __tablename__ = "samples"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    created_at: Mapped[float] = mapped_column(default=now())
    samples: Mapped[list[Json]]


class JudgeAnswer(Base):
    """What a judge answered, under a hash of the question: an attempt that resumes asks nothing."""

    __tablename__ = "judge_answers"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float] = mapped_column(default=now())
    answer: Mapped[Json]


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


class Departed(Base):
    """Where something that was removed stood in its list: a cursor may still name it."""

    __tablename__ = "departed"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str]
    """The project or the job whose list it was in."""
    position: Mapped[float]
    removed_at: Mapped[float] = mapped_column(default=now(), index=True)
