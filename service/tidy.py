"""Removes what outlived its time, a batch a round: rows first, then their bytes.

Whatever breaks off in between is done by the next round: rows that are gone leave a note of where
their bytes lie. A download that is under way has its file open, and is not cut.
"""

from __future__ import annotations

import logging

from sqlalchemy.orm import Session, sessionmaker

from jobs import results, retention
from jobs.artifacts import ArtifactStore
from jobs.db import transaction
from jobs.models import File
from jobs.store import checkpoints, departed, files, metrics, uploads
from service.settings import ServiceSettings

logger = logging.getLogger(__name__)

# Of each kind in a round, so that no round takes long.
BATCH = 100

DAY = 24 * 3600.0


def tidy(sessions: sessionmaker[Session], artifacts: ArtifactStore) -> None:
    """What is over by itself: files and uploads that have an end, and what ended jobs hold.

    An expired file that an unfinished job reads is kept until the job has ended.
    """
    _left_behind(sessions, artifacts)
    with sessions() as session:
        expired = files.expired(session, limit=BATCH)
    _files(sessions, artifacts, expired)
    _uploads(sessions, artifacts)
    _jobs(sessions, artifacts)
    if num_removed := artifacts.clear_abandoned():
        logger.info("%d unfinished writes of processes that were killed are removed", num_removed)


def expire(
    sessions: sessionmaker[Session], artifacts: ArtifactStore, settings: ServiceSettings
) -> bool:
    """What the operator keeps for some time only. Whether there may be more of it."""
    nums = [0]
    if settings.keep_unused_files_days is not None:
        seconds = settings.keep_unused_files_days * DAY
        with sessions() as session:
            unused = files.unused(
                session, seconds=seconds, kept_purpose=results.PURPOSE, limit=BATCH
            )
        _files(sessions, artifacts, unused)
        nums.append(len(unused))
    if settings.keep_checkpoints_days is not None:
        seconds = settings.keep_checkpoints_days * DAY
        nums.append(_checkpoints(sessions, artifacts, seconds=seconds))
    if settings.keep_samples_days is not None:
        nums.append(_samples(sessions, seconds=settings.keep_samples_days * DAY))
    return max(nums) >= BATCH


def _left_behind(sessions: sessionmaker[Session], artifacts: ArtifactStore) -> None:
    """Bytes whose rows are gone, of whoever was killed before it removed them."""
    with sessions() as session:
        notes = departed.with_bytes_left(session, limit=BATCH)
    for note in notes:
        _remove_bytes(sessions, artifacts, note.id, note.left_behind or "")


def _remove_bytes(
    sessions: sessionmaker[Session], artifacts: ArtifactStore, object_id: str, place: str
) -> None:
    if place.startswith(f"{files.FOLDER}/"):
        artifacts.delete_upload(object_id)
    else:
        artifacts.remove(place)
    with transaction(sessions) as session:
        departed.bytes_are_gone(session, object_id)


def _files(sessions: sessionmaker[Session], artifacts: ArtifactStore, expired: list[File]) -> None:
    for file in expired:
        with sessions() as session:
            if files.remove_unused(session, file, is_expired=True):
                continue
            session.commit()
        _remove_bytes(sessions, artifacts, file.id, f"{files.FOLDER}/{file.id}")
        logger.info("%s expired and is removed", file.id)


def _checkpoints(
    sessions: sessionmaker[Session], artifacts: ArtifactStore, *, seconds: float
) -> int:
    with sessions() as session:
        overdue = checkpoints.overdue(session, seconds=seconds, limit=BATCH)
    for checkpoint in overdue:
        with transaction(sessions) as session:
            checkpoints.expire(session, checkpoint)
        _remove_bytes(sessions, artifacts, checkpoint.id, checkpoint.folder)
        logger.info("%s of %s expired and is removed", checkpoint.id, checkpoint.job_id)
    return len(overdue)


def _samples(sessions: sessionmaker[Session], *, seconds: float) -> int:
    with sessions() as session:
        overdue = metrics.overdue_samples(session, seconds=seconds, limit=BATCH)
    for job_id in overdue:
        with transaction(sessions) as session:
            num_bytes = metrics.remove_samples(session, job_id, older_than=seconds, limit=BATCH)
        logger.info("%s: %d bytes of samples expired and are removed", job_id, num_bytes)
    return overdue.total()


def _uploads(sessions: sessionmaker[Session], artifacts: ArtifactStore) -> None:
    with sessions() as session:
        expired = uploads.expired(session, limit=BATCH)
    for upload_id in expired:
        # The bytes first: nothing is made of an expired upload, and the row says what is left.
        artifacts.delete_parts(upload_id)
        with transaction(sessions) as session:
            uploads.expire(session, upload_id)
        logger.info("%s was not completed in time and is removed", upload_id)


def _jobs(sessions: sessionmaker[Session], artifacts: ArtifactStore) -> None:
    """Those that no worker ended, and those whose worker was killed while it did this."""
    with sessions() as session:
        unreleased = checkpoints.unreleased(session)
    for job_id in unreleased:
        retention.release(sessions, artifacts, job_id)
        logger.info("%s is over: its training states and old checkpoints are removed", job_id)
