"""What a project stores, what it may store, and the refusal of what would be too much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from jobs.errors import QuotaExceeded
from jobs.models import Checkpoint, File, Job, Project, Upload, UploadPart

# A project's quota that is none, whatever the settings say.
UNLIMITED = -1

WHAT_TO_DELETE = (
    "Delete files (DELETE /v1/files/{id}), models of checkpoints (DELETE /v1/models/{name}) or the "
    "samples of jobs that are over (DELETE /v1/fine_tuning/jobs/{id}/samples), give unfinished "
    "uploads up (POST /v1/uploads/{id}/cancel), or ask the operator for more."
)


@dataclass(frozen=True)
class Storage:
    """In bytes, as they are stored."""

    limit: int | None
    files: int
    uploads: int
    """Parts of uploads that are not completed."""
    adapters: int
    training_states: int
    samples: int

    @property
    def kinds(self) -> tuple[int, ...]:
        return (self.files, self.uploads, self.adapters, self.training_states, self.samples)

    @property
    def used(self) -> int:
        return sum(self.kinds)

    @property
    def room(self) -> int | None:
        """What may be added; None where there is no limit."""
        return None if self.limit is None else max(0, self.limit - self.used)

    @property
    def sentence(self) -> str:
        """How much there is of what."""
        return (
            f"The project stores {self.used:,} of {self.limit or 0:,} bytes: {self.files:,} in "
            f"files, {self.uploads:,} in unfinished uploads, {self.adapters:,} in adapters, "
            f"{self.training_states:,} in training states and {self.samples:,} in samples."
        )


def of(session: Session, project_id: str, *, default: int | None) -> Storage:
    """What the project stores by now; `default` is the quota of projects that have none."""
    limit = limit_of(session, project_id, default=default)
    sums = {
        "files": select(_total(File.num_bytes)).where(File.project_id == project_id),
        "uploads": _parts(project_id),
        "adapters": _of_checkpoints(project_id, Checkpoint.kept_bytes),
        "training_states": _of_checkpoints(
            project_id, case((Checkpoint.has_state, Checkpoint.state_bytes), else_=0)
        ),
        "samples": select(_total(Job.sample_bytes)).where(Job.project_id == project_id),
    }
    # One statement, so that what moves from one kind to another meanwhile is counted once.
    row = session.execute(select(*(one.scalar_subquery() for one in sums.values()))).one()
    return Storage(limit, **{kind: int(total) for kind, total in zip(sums, row, strict=True)})


def limit_of(session: Session, project_id: str, *, default: int | None) -> int | None:
    """What the project may store, or None."""
    quota = session.scalar(select(Project.quota_bytes).where(Project.id == project_id))
    if quota is None:
        return default
    return None if quota == UNLIMITED else quota


def check(
    session: Session, project_id: str, *, default: int | None, num_bytes: int, param: str | None
) -> None:
    """Raise QuotaExceeded unless so many bytes may be added; for a job, which adds later, 0 are.

    Right under concurrency where the caller's transaction holds the project's row: see
    `creations.queue_up`.
    """
    if limit_of(session, project_id, default=default) is None:
        return
    storage = of(session, project_id, default=default)
    room = storage.room
    if room is not None and (room < num_bytes or room == 0):
        raise too_much(storage, num_bytes=num_bytes, param=param)


def too_much(storage: Storage, *, num_bytes: int | None, param: str | None) -> QuotaExceeded:
    """The refusal of so many bytes more; None where it is not known how many they are."""
    asked = "" if not num_bytes else f"There is no room for {num_bytes:,} bytes more. "
    return QuotaExceeded(f"{asked}{storage.sentence} {WHAT_TO_DELETE}", param=param)


def _total(column: Any) -> Any:
    return func.coalesce(func.sum(column), 0)


def _parts(project_id: str) -> Select[Any]:
    return (
        select(_total(UploadPart.num_bytes))
        .join(Upload, Upload.id == UploadPart.upload_id)
        .where(Upload.project_id == project_id)
    )


def _of_checkpoints(project_id: str, column: Any) -> Select[Any]:
    return (
        select(_total(column))
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Job.project_id == project_id)
    )
