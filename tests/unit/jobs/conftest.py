"""Rows for the store's tests."""

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs import ids
from jobs.db import transaction
from jobs.models import Job
from jobs.store import jobs, projects, validation

MakeJob = Callable[..., str]

SPEC = {
    "model": "honed/starter",
    "training_file": "file-a",
    "suffix": None,
    "method": {"type": "reinforcement", "reinforcement": {"grader": {}, "hyperparameters": {}}},
}


@pytest.fixture
def project_id(sessions: sessionmaker[Session]) -> str:
    with transaction(sessions) as session:
        return projects.ensure_project(session, "default").id


@pytest.fixture
def make_job(sessions: sessionmaker[Session], project_id: str) -> MakeJob:
    """A job's id: queued, or still in validation."""

    def make(*, is_queued: bool = True, **values: object) -> str:
        usual = {
            "project_id": project_id,
            "spec": SPEC,
            "model": "honed/starter",
            "training_file": "file-a",
            "seed": 1,
        }
        job = Job(id=ids.new_id(ids.JOB), **(usual | values))
        with transaction(sessions) as session:
            jobs.add(session, job)
            if is_queued:
                validation.admit(session, job.id, resolved={})
        return job.id

    return make
