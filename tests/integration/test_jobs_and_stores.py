"""A bucket that does not answer ends no job: whoever needs it comes again."""

import json
import os
import sys
from pathlib import Path

import pytest
import tampers
from gate import Gate
from sqlalchemy.orm import Session, sessionmaker
from supervised import Script, drain, make_claimable, messages, queued_job, row
from trainer_runs import Trainers

from jobs.db import transaction
from jobs.errors import StoreAway
from jobs.models import Job
from jobs.status import Reason, Status
from jobs.store import validation
from service.settings import ServiceSettings
from worker import validator
from worker.validate import validate

SUCCEEDS = """print(json.dumps({"outcome": "succeeded", "verdict": "improved"}), flush=True)"""

RUN = {
    "max_steps": 2,
    "batch_size": 2,
    "group_size": 2,
    "max_completion_tokens": 4,
    "eval_samples": 2,
    "checkpoint_interval": 1,
}


@pytest.fixture
def artifacts_at(gated_bucket: dict[str, str]) -> dict[str, str]:
    return gated_bucket


def test_a_trainer_that_cannot_fetch_says_so_and_a_later_one_goes_on(
    trainers: Trainers, gate: Gate, sessions: sessionmaker[Session]
) -> None:
    job_id = trainers.submit(**RUN)
    assert trainers.attempt(job_id, tampers.KillIn("sampling", step=2, call=1)) < 0
    gate.cut()
    assert trainers.attempt(job_id) == 0
    outcome = trainers.outcome()
    assert (outcome["outcome"], outcome["reason"]) == ("failed", "artifacts_unavailable")
    assert "no connection" in outcome["message"]
    gate.open()
    with transaction(sessions) as session:
        job = session.get_one(Job, job_id)
        job.status, job.claimable_at, job.lease_expires_at = Status.QUEUED, 0.0, None
    assert trainers.attempt(job_id) == 0
    assert trainers.outcome()["outcome"] == "succeeded"
    assert "Resumed from the checkpoint of step 1" in trainers.events(job_id)


def test_a_job_whose_trainer_cannot_reach_the_bucket_waits_and_loses_nothing(
    settings: ServiceSettings, sessions: sessionmaker[Session], trainer: Script
) -> None:
    job_id = queued_job(sessions)
    said = {"outcome": "failed", "reason": "artifacts_unavailable", "message": "It is away."}
    trainer(f"print({json.dumps(said)!r}, flush=True)")
    for _ in range(settings.max_losses + 1):
        drain(settings)
        job = row(sessions, job_id)
        waiting = (Status.QUEUED, Reason.ARTIFACTS_UNAVAILABLE, 0)
        assert (job.status, job.reason, job.num_losses) == waiting
        assert messages(sessions, job_id)[-1].startswith("It is away. The job is queued")
        make_claimable(sessions, job_id)
    trainer(SUCCEEDS)
    drain(settings)
    assert row(sessions, job_id).status == Status.SUCCEEDED


def test_files_that_cannot_be_fetched_are_validated_later(
    trainers: Trainers,
    settings: ServiceSettings,
    sessions: sessionmaker[Session],
    gate: Gate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = trainers.submit(**RUN)
    with transaction(sessions) as session:
        session.get_one(Job, job_id).status = Status.VALIDATING_FILES
    gate.cut()
    with pytest.raises(StoreAway):
        validate(job_id, settings, sessions)

    # The process that does so ends with this code.
    script = tmp_path / "away.py"
    script.write_text(f"raise SystemExit({os.EX_TEMPFAIL})")
    monkeypatch.setattr(validator, "COMMAND", (sys.executable, str(script)))
    for _ in range(settings.max_losses + 1):
        drain(settings)
        with transaction(sessions) as session:
            job = session.get_one(Job, job_id)
            assert (job.status, job.num_losses) == (Status.VALIDATING_FILES, 0)
            assert job.lease_owner is None
            assert job.lease_expires_at is not None, "not at once again"
            job.lease_expires_at = None
    gate.open()
    with transaction(sessions) as session:
        assert validation.claim(session, worker="w", lease_seconds=60) is not None
    validate(job_id, settings, sessions)
    assert row(sessions, job_id).status == Status.QUEUED
