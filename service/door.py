"""What is asked before anything is taken in: has the disk room, has the project, is the line short.

Refused here, a request has cost nothing yet; running jobs never come by.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from jobs import disk
from jobs.errors import BodyTooLarge, HonedError, StorageFull, TooManyRequests
from jobs.settings import GB
from jobs.store import jobs, storage, uploads
from service.settings import ServiceSettings

# Who waits for a worker's time, or for an operator, waits long.
QUEUE_RETRY_SECONDS = 30
DISK_RETRY_SECONDS = 60

# Of a small disk, no more than such a part is kept back.
SMALL_DISK_PARTS = 10


class ReserveReached(StorageFull):
    """Only what is kept for running jobs is left on the disk."""

    retry_after_seconds = DISK_RETRY_SECONDS
    # Somebody makes room, or what is old expires: nothing that a client waits for in its call.
    is_passing = False


@dataclass(frozen=True)
class Allowance:
    """How much of a body is read, and what a longer one is answered."""

    num_bytes: int
    refusal: HonedError


def check_disk(settings: ServiceSettings, *, num_bytes: int = 0, is_spooled: bool = True) -> None:
    """Raise ReserveReached unless so many bytes leave running jobs their reserve.

    Bytes that come in one body lie in the folder for temporary files at first: they are spooled.
    A bucket is on no disk of this machine.
    """
    kept = 0 if settings.artifacts_url else num_bytes
    folders = {
        settings.data_dir: kept,
        settings.artifacts_dir: kept,
        Path(tempfile.gettempdir()): num_bytes if is_spooled else 0,
    }
    for folder, wanted in folders.items():
        room = disk.room(folder)
        reserve = min(int(settings.disk_reserve_gb * GB), room.total // SMALL_DISK_PARTS)
        if room.free - wanted < reserve:
            raise ReserveReached(
                f"The server has {room.free / GB:.2f} GB of disk left and keeps "
                f"{reserve / GB:.2f} GB for jobs that run, so nothing new is taken in, and nothing "
                "of this request was. Try again once the operator has made room; deleting files "
                "and models of yours makes some."
            )


def allowance(
    session: Session, project_id: str, settings: ServiceSettings, *, max_bytes: int, param: str
) -> Allowance:
    """What of a file may be read that the project has room for. Raises QuotaExceeded at none."""
    default = settings.project_quota_bytes
    if storage.limit_of(session, project_id, default=default) is None:
        return whole(max_bytes, param=param)
    stored = storage.of(session, project_id, default=default)
    if stored.room is None or stored.room >= max_bytes:
        return whole(max_bytes, param=param)
    too_much = storage.too_much(stored, num_bytes=None, param=param)
    if stored.room == 0:
        raise too_much
    return Allowance(stored.room, too_much)


def whole(max_bytes: int, *, param: str) -> Allowance:
    """As much as anybody may send at once."""
    too_large = f"'{param}' is larger than {max_bytes:,} bytes, the limit here."
    return Allowance(max_bytes, BodyTooLarge(too_large, param=param))


def check_storage(
    session: Session,
    project_id: str,
    settings: ServiceSettings,
    *,
    num_bytes: int = 0,
    param: str | None = None,
) -> None:
    """Raise QuotaExceeded unless the project has room; see `storage.check`."""
    default = settings.project_quota_bytes
    storage.check(session, project_id, default=default, num_bytes=num_bytes, param=param)


def check_line(session: Session, project_id: str, settings: ServiceSettings) -> None:
    """Raise TooManyRequests where as many jobs as may wait for a worker."""
    limit = settings.max_project_waiting_jobs
    if (num := jobs.num_waiting(session, project_id)) >= limit:
        raise _line_is_full(
            f"{num:,} jobs of this project wait for a worker, of {limit:,} that may. Cancel those "
            "that are not needed any more, or try again once some have started."
        )
    limit = settings.max_waiting_jobs
    if (num := jobs.num_waiting(session)) >= limit:
        raise _line_is_full(
            f"{num:,} jobs wait for a worker on this server, of {limit:,} that may. Try again once "
            "some have started."
        )


def check_uploads(session: Session, project_id: str, settings: ServiceSettings) -> None:
    """Raise TooManyRequests where the project has as many unfinished uploads as it may."""
    limit = settings.max_project_uploads
    if (num := uploads.num_pending(session, project_id)) >= limit:
        error = TooManyRequests(
            f"This project has {num:,} unfinished uploads, of {limit:,} that it may. Complete or "
            "cancel one (POST /v1/uploads/{id}/complete, .../cancel); each ends by itself an hour "
            "after it was begun.",
            code="too_many_uploads",
        )
        error.retry_after_seconds = QUEUE_RETRY_SECONDS
        raise error


def _line_is_full(sentence: str) -> TooManyRequests:
    error = TooManyRequests(sentence, code="queue_full")
    error.retry_after_seconds = QUEUE_RETRY_SECONDS
    return error
