"""What validators come to that are stopped, or slow: the file is not blamed for it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from supervised import Sessions, row, unvalidated_job

from jobs.db import transaction
from jobs.models import Job
from jobs.settings import Settings
from jobs.status import Status
from jobs.store import validation
from worker import validator
from worker.validator import Validator

BEGINS = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file that is there once a process that never ends has begun to validate."""
    path = tmp_path / "begun"
    monkeypatch.setattr(validator, "COMMAND", (sys.executable, "-c", BEGINS, str(path)))
    return path


def validate(settings: Settings, sessions: Sessions, is_stopping: Callable[[], bool]) -> None:
    Validator(settings, sessions, worker="w", is_stopping=is_stopping).validate_all()


def test_workers_that_are_stopped_one_after_another_cost_a_job_nothing(
    settings: Settings, sessions: Sessions, begun: Path
) -> None:
    job_id = unvalidated_job(sessions)
    for _ in range(settings.max_losses + 1):
        begun.unlink(missing_ok=True)
        validate(settings, sessions, begun.exists)
    job = row(sessions, job_id)
    assert job.status == Status.VALIDATING_FILES
    assert (job.num_losses, job.lease_owner) == (0, None)


def test_a_validator_that_lost_its_lease_leaves_the_file_to_the_next(
    settings: Settings, sessions: Sessions, begun: Path
) -> None:
    job_id = unvalidated_job(sessions)

    def another_takes_it() -> bool:
        """The worker's own question whether to stop; meanwhile its lease runs out."""
        if begun.exists():
            with transaction(sessions) as session:
                session.get_one(Job, job_id).lease_expires_at = 0.0
            with transaction(sessions) as session:
                assert validation.claim(session, worker="other", lease_seconds=60)
            begun.unlink()
        return False

    validate(settings, sessions, another_takes_it)
    job = row(sessions, job_id)
    assert (job.num_losses, job.lease_owner) == (1, "other")
