"""What a job tells while it runs: events, metrics, samples, checkpoints."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, JsonValue

from jobs import ids
from jobs.errors import BadRequest
from jobs.models import Checkpoint, Event, Job, Metric, SampleSet
from jobs.names import tuned_checkpoint

EventLevel = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]


class JobEvent(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: EventLevel
    message: str
    type: EventType
    data: dict[str, JsonValue] | None


class JobCheckpoint(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, JsonValue]
    bytes: int
    """Size of the archive that `GET .../checkpoints/{id}/adapter` answers."""
    sha256: str


class Metrics(BaseModel):
    """Rows in order of steps: `step` and every metric of it, its evaluation in the same row."""

    object: Literal["list"] = "list"
    data: list[dict[str, JsonValue]]
    has_more: bool


class Samples(BaseModel):
    """One step's completions with their rewards and advantages; `step` is null before the first."""

    object: Literal["list"] = "list"
    step: int | None
    data: list[dict[str, JsonValue]]
    has_more: Literal[False] = False


class SamplesDeleted(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """The job's."""
    object: Literal["fine_tuning.job.samples"] = "fine_tuning.job.samples"
    deleted: Literal[True] = True
    bytes: int
    """What they took of the project's storage."""


def event_object(event: Event) -> JobEvent:
    return JobEvent(
        id=event_id(event.job_id, event.seq),
        created_at=int(event.created_at),
        level=cast(EventLevel, event.level),
        message=event.message,
        type=cast(EventType, event.type),
        data=event.data,
    )


def event_id(job_id: str, seq: int) -> str:
    return f"{ids.EVENT}{job_id.removeprefix(ids.JOB)}-{seq}"


def event_seq(job_id: str, shown: str) -> int:
    """The number of this job's event that an id names. Raises BadRequest for any other id."""
    seq = shown.removeprefix(f"{ids.EVENT}{job_id.removeprefix(ids.JOB)}-")
    if seq == shown or not (seq.isascii() and seq.isdecimal()) or len(seq) > 9:
        raise BadRequest(f"'after' is '{shown}', which is no event of {job_id}.", param="after")
    return int(seq)


def checkpoint_object(job: Job, checkpoint: Checkpoint) -> JobCheckpoint:
    return JobCheckpoint(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at),
        fine_tuned_model_checkpoint=tuned_checkpoint(job, checkpoint.step),
        fine_tuning_job_id=job.id,
        step_number=checkpoint.step,
        metrics={"step": checkpoint.step, **checkpoint.metrics},
        bytes=checkpoint.archive_bytes,
        sha256=checkpoint.archive_sha256,
    )


def metrics_page(rows: list[Metric], *, has_more: bool) -> Metrics:
    return Metrics(data=[{**row.data, "step": row.step} for row in rows], has_more=has_more)


def samples_object(found: SampleSet | None) -> Samples:
    if found is None:
        return Samples(step=None, data=[])
    return Samples(step=found.step, data=found.samples)
