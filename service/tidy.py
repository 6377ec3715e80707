"""Removes what outlived its time: expired files and uploads, and what jobs that are over hold.

Also what writers that were killed left in the artifact store.
"""

from __future__ import annotations

import logging

from sqlalchemy.orm import Session, sessionmaker

from jobs import retention
from jobs.artifacts import ArtifactStore
from jobs.db import transaction
from jobs.store import checkpoints, files, uploads

logger = logging.getLogger(__name__)


def tidy(sessions: sessionmaker[Session], artifacts: ArtifactStore) -> None:
    """One round. An expired file that an unfinished job reads is kept until the job has ended."""
    _files(sessions, artifacts)
    _uploads(sessions, artifacts)
    _jobs(sessions, artifacts)
    if num_removed := artifacts.clear_abandoned():
        logger.info("%d unfinished writes of processes that were killed are removed", num_removed)


def _files(sessions: sessionmaker[Session], artifacts: ArtifactStore) -> None:
    with sessions() as session:
        expired = files.expired(session)
    for file in expired:
        with sessions() as session:
            if files.remove_unused(session, file):
                continue
            session.commit()
        artifacts.delete_upload(file.id)
        logger.info("%s expired and is removed", file.id)


def _uploads(sessions: sessionmaker[Session], artifacts: ArtifactStore) -> None:
    with sessions() as session:
        expired = uploads.expired(session)
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
