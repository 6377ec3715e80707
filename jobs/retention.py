"""What is kept of a job that is over: its best adapters and its last, no state to resume from."""

from __future__ import annotations

from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.db import transaction
from jobs.models import Job
from jobs.status import TERMINAL
from jobs.store import checkpoints


def release(sessions: sessionmaker[Session], artifacts: ArtifactStore, job_id: str) -> None:
    """Free what a finished job holds on disk beside the adapters that its checkpoints name.

    Nothing while the job may still go on. Rows go before their bytes, so that whatever is listed
    can be downloaded, and the mark by which `checkpoints.unreleased` finds the job goes last: what
    breaks off in between is done again.
    """
    with transaction(sessions) as session:
        job = session.get_one(Job, job_id)
        if job.status not in TERMINAL:
            return
        checkpoints.retire(session, job_id, is_over=True)
        kept = checkpoints.folders(session, job_id)
    artifacts.keep_only(f"jobs/{job_id}", kept)
    for folder in kept:
        artifacts.remove(f"{folder}/state")
    with transaction(sessions) as session:
        checkpoints.forget_states(session, job_id)
