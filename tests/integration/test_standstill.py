"""Trainers and workers that live and do nothing: their lease ends, and the job goes on."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import environ
from supervised import (
    SUPERVISOR,
    Script,
    Sessions,
    drain,
    make_claimable,
    messages,
    no_trainer_is_left,
    queued_job,
    row,
)
from waiting import has_ended, wait_for

from jobs.db import transaction
from jobs.models import Job
from jobs.status import Reason, Status
from jobs.store import attempts
from jobs.store.attempts import Claim
from service.doorbell import Doorbell
from service.settings import ServiceSettings
from service.sweeper import sweep

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "stands_still",
    [
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "(one := threading.Lock()).acquire(); one.acquire()",
    ],
    ids=["stopped", "deadlocked"],
)
def test_a_trainer_that_stands_still_is_ended_and_the_job_goes_on(
    settings: ServiceSettings, sessions: Sessions, trainer: Script, stands_still: str
) -> None:
    job_id = queued_job(sessions)
    trainer(
        f"""
        import threading
        print(json.dumps({{"phase": "grading", "done": 1, "total": 2}}), flush=True)
        if sys.argv[2] == "1":
            {stands_still}
        print(json.dumps({{"outcome": "succeeded", "verdict": "unknown"}}), flush=True)
        """
    )
    drain(settings.model_copy(update={"progress_seconds": 4.0}))
    job = row(sessions, job_id)
    assert (job.status, job.reason) == (Status.QUEUED, Reason.NO_PROGRESS)
    assert "seconds while grading and was stopped" in messages(sessions, job_id)[-1]
    assert no_trainer_is_left()

    make_claimable(sessions, job_id)
    drain(settings)
    assert row(sessions, job_id).status == Status.SUCCEEDED


def test_a_worker_that_was_stopped_past_its_lease_writes_nothing_and_ends_its_trainer(
    settings: ServiceSettings, sessions: Sessions, trainer: Script
) -> None:
    job_id = queued_job(sessions)
    script = trainer.write(
        """
        for done in range(10**6):
            print(json.dumps({"phase": "sampling", "done": done, "total": 10**6}), flush=True)
            time.sleep(0.05)
        """
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(script)],
        env=environ(
            data_dir=settings.data_dir, database_url=settings.sqlalchemy_url, renew_seconds=0.1
        ),
        cwd=ROOT,
    )
    try:
        wait_for(lambda: row(sessions, job_id).progress, seconds=60, what="progress")
        both = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children()]
        for process in both:
            process.suspend()
        stopped = psutil.STATUS_STOPPED
        wait_for(
            lambda: all(process.status() == stopped for process in both),
            seconds=20,
            what="the standstill",
        )
        other = taken_over(settings, sessions, job_id)
        before = told(sessions, job_id)
        for process in reversed(both):  # the trainer first: its worker ends it at once
            process.resume()
        assert worker.wait(60) == 0
        assert len(both) == 2
        assert has_ended(both[1])
    finally:
        worker.kill()
        worker.wait()
    assert other == Claim(job_id, 2)
    assert told(sessions, job_id) == before


def taken_over(settings: ServiceSettings, sessions: Sessions, job_id: str) -> Claim | None:
    """The job's lease runs out, the sweeper notices, and another worker claims it."""
    with transaction(sessions) as session:
        session.get_one(Job, job_id).lease_expires_at = 1.0
    doorbell = Doorbell(settings)
    sweep(sessions, doorbell, settings)
    doorbell.close()
    job = row(sessions, job_id)
    assert (job.status, job.reason, job.num_losses) == (Status.QUEUED, Reason.WORKER_LOST, 1)
    make_claimable(sessions, job_id)
    with transaction(sessions) as session:
        return attempts.claim(session, worker="other", lease_seconds=600)


def told(sessions: Sessions, job_id: str) -> dict[str, Any]:
    """All that a worker may write about a job."""
    job = row(sessions, job_id)
    columns = {column.name: getattr(job, column.name) for column in Job.__table__.columns}
    return columns | {"messages": messages(sessions, job_id)}
