"""Jobs and what is said of them while they run: events, metrics, samples, judges' answers."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from jobs.columns import Prose
from jobs.db import now
from jobs.models.base import Base, Json
from jobs.status import Status


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
    request_id: Mapped[str | None]
    """Of the request that made it: the log's lines of its attempts carry it."""
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
