"""One attempt under supervision: what its process does decides what becomes of the job."""

import sys
import threading
from collections.abc import Callable

import pytest
from supervised import (
    Script,
    Sessions,
    drain,
    make_claimable,
    messages,
    no_trainer_is_left,
    queued_job,
    row,
)

from jobs.db import transaction
from jobs.models import Job
from jobs.status import Reason, Status
from jobs.store import jobs, projects, validation
from service.settings import ServiceSettings
from worker import attempt as one_attempt
from worker import validator

pytestmark = pytest.mark.on_both_databases


@pytest.fixture
def job_id(sessions: Sessions) -> str:
    return queued_job(sessions)


def test_progress_and_outcome_reach_the_row(
    settings: ServiceSettings, sessions: Sessions, job_id: str, trainer: Script
) -> None:
    trainer(
        """
        print("a library's chatter", flush=True)
        print(json.dumps({"phase": "training", "done": 3, "total": 8}), flush=True)
        print(json.dumps({"outcome": "succeeded", "verdict": "improved"}), flush=True)
        """
    )
    drain(settings)

    job = row(sessions, job_id)
    assert (job.status, job.verdict, job.attempt) == (Status.SUCCEEDED, "improved", 1)
    assert job.progress == {"done": 3, "total": 8}
    assert (job.phase, job.lease_owner, job.lease_expires_at) == (None, None, None)
    assert messages(sessions, job_id)[-1] == "The job has successfully completed"
    assert no_trainer_is_left()


def test_a_failed_outcome_keeps_its_reason(
    settings: ServiceSettings, sessions: Sessions, job_id: str, trainer: Script
) -> None:
    trainer(
        """
        said = {"outcome": "failed", "reason": "grader_failed", "message": "It failed.",
                "param": "method"}
        print(json.dumps(said), flush=True)
        """
    )
    drain(settings)

    job = row(sessions, job_id)
    assert (job.status, job.reason) == (Status.FAILED, Reason.GRADER_FAILED)
    assert (job.error_message, job.error_param) == ("It failed.", "method")


def test_a_crash_is_tried_again_and_then_told_with_its_evidence(
    settings: ServiceSettings, sessions: Sessions, job_id: str, trainer: Script
) -> None:
    trainer("raise RuntimeError('the card fell off the bus')")
    for attempt in (1, 2):
        drain(settings)
        job = row(sessions, job_id)
        assert (job.status, job.attempt, job.num_losses) == (Status.QUEUED, attempt, attempt)
        make_claimable(sessions, job_id)
    drain(settings)

    job = row(sessions, job_id)
    assert (job.status, job.reason) == (Status.FAILED, Reason.TRAINER_CRASHED)
    assert job.error_message is not None
    assert "RuntimeError: the card fell off the bus" in job.error_message
    assert "not retried" in job.error_message


def test_a_trainer_that_hangs_alive_loses_the_job(
    settings: ServiceSettings, sessions: Sessions, job_id: str, trainer: Script
) -> None:
    trainer("time.sleep(600)")
    drain(settings.model_copy(update={"progress_seconds": 0.5}))

    assert row(sessions, job_id).status == Status.QUEUED
    assert any("did nothing for" in message for message in messages(sessions, job_id))
    assert no_trainer_is_left()


@pytest.mark.parametrize(
    ("ask", "status"), [(jobs.cancel, Status.CANCELLED), (jobs.pause, Status.PAUSED)]
)
def test_a_trainer_that_does_not_obey_is_ended(
    settings: ServiceSettings,
    sessions: Sessions,
    job_id: str,
    trainer: Script,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[..., Job],
    status: Status,
) -> None:
    trainer("time.sleep(600)")
    monkeypatch.setattr(one_attempt, "OBEY_SECONDS", 0.5)
    working = threading.Thread(target=drain, args=(settings,))
    working.start()
    while row(sessions, job_id).status != Status.RUNNING:
        assert working.is_alive()
    with transaction(sessions) as session:
        ask(session, row(sessions, job_id).project_id, job_id)
    working.join(20)

    assert row(sessions, job_id).status == status
    assert no_trainer_is_left()


def test_a_worker_that_shuts_down_gives_the_job_back(
    settings: ServiceSettings, sessions: Sessions, job_id: str, trainer: Script
) -> None:
    trainer(
        """
        assert sys.stdin.readline() == "release\\n"
        print(json.dumps({"outcome": "stopped"}), flush=True)
        """
    )
    asked = iter([False, False])
    drain(settings, is_stopping=lambda: next(asked, True))

    job = row(sessions, job_id)
    assert (job.status, job.attempt, job.num_losses) == (Status.QUEUED, 1, 0)


def test_a_lost_lease_ends_the_trainer_and_writes_nothing(
    settings: ServiceSettings, sessions: Sessions, job_id: str, trainer: Script
) -> None:
    trainer("time.sleep(600)")
    working = threading.Thread(target=drain, args=(settings,))
    working.start()
    while row(sessions, job_id).status != Status.RUNNING:
        assert working.is_alive()
    with transaction(sessions) as session:
        job = session.get(Job, job_id)
        assert job is not None
        job.attempt += 1  # as another worker's claim does
    working.join(20)

    job = row(sessions, job_id)
    assert (job.status, job.attempt) == (Status.RUNNING, 2)
    assert no_trainer_is_left()


def test_jobs_run_by_priority_and_then_by_age(
    settings: ServiceSettings, sessions: Sessions, trainer: Script
) -> None:
    trainer('print(json.dumps({"outcome": "succeeded", "verdict": "unknown"}), flush=True)')
    order = []
    with transaction(sessions) as session:
        project = projects.ensure_project(session, "default")
        for name, priority in (("old", 0), ("young", 0), ("urgent", 5)):
            job = Job(
                id=f"ftjob-{name}",
                project_id=project.id,
                spec={"suffix": None},
                model="honed/starter",
                training_file="file-a",
                seed=1,
                priority=priority,
                created_at=float(len(order)),
            )
            order.append(name)
            jobs.add(session, job)
            validation.admit(session, job.id, resolved={})
    drain(settings)

    with sessions() as session:
        finished = {name: session.get(Job, f"ftjob-{name}") for name in order}
    times = {name: job.started_at for name, job in finished.items() if job is not None}
    assert sorted(times, key=lambda name: times[name] or 0) == ["urgent", "old", "young"]
    assert all(job is not None and job.status == Status.SUCCEEDED for job in finished.values())


def test_a_validator_that_is_killed_each_time_ends_the_job(
    settings: ServiceSettings,
    sessions: Sessions,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kill_itself = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(validator, "COMMAND", (sys.executable, "-c", kill_itself))
    with transaction(sessions) as session:
        job = session.get(Job, job_id)
        assert job is not None
        job.status = Status.VALIDATING_FILES
    for num_tries in (1, 2, 3):
        drain(settings)
        with transaction(sessions) as session:
            job = session.get(Job, job_id)
            assert job is not None
            assert (job.status, job.num_losses) == (Status.VALIDATING_FILES, num_tries)
            job.lease_expires_at = 0.0  # as time does
    drain(settings)

    job = row(sessions, job_id)
    assert (job.status, job.reason) == (Status.FAILED, Reason.INTERNAL_ERROR)
    assert job.error_message is not None
    assert "killed each time" in job.error_message


def test_a_job_that_does_not_fit_waits_and_says_why(
    settings: ServiceSettings, sessions: Sessions, job_id: str, trainer: Script
) -> None:
    trainer('print(json.dumps({"outcome": "succeeded", "verdict": "unknown"}))')
    with transaction(sessions) as session:
        session.get_one(Job, job_id).memory_cpu_bytes = 9 * 10**9
    drain(settings.model_copy(update={"device_memory_gb": 4.0, "worker_name": "small"}))
    assert row(sessions, job_id).status == Status.QUEUED
    assert "needs about 9.0 GB" in messages(sessions, job_id)[-1]
    assert "of worker small, has 4.0 GB" in messages(sessions, job_id)[-1]

    drain(settings.model_copy(update={"device_memory_gb": 10.0}))
    assert row(sessions, job_id).status == Status.SUCCEEDED
