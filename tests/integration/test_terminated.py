"""SIGTERM to the processes of a stack, at bad moments: each ends in time, and leaves nobody."""

import os
from pathlib import Path

import psutil
import pytest
from fastapi.testclient import TestClient
from supervised import Sessions, row
from trainer_runs import Trainers
from waiting import wait_for
from workers import GRACE_SECONDS, Start, Worker, posted

from jobs.models import Job
from jobs.status import Phase, Status
from service.settings import ServiceSettings

pytestmark = pytest.mark.slow

LONG = {"max_steps": 500, "batch_size": 4, "group_size": 4, "max_completion_tokens": 8}
LONG |= {"eval_interval": 500, "eval_samples": 2, "checkpoint_interval": 500}


def family(process: Worker) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def named(process: Worker, module: str) -> list[psutil.Process]:
    """What a worker has started that runs a module, forked ones too."""
    return [one for one in family(process) if one.name() == module or module in one.cmdline()]


def assert_nobody_is_left(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert alive == []


def is_in_a_step(sessions: Sessions, job_id: str, *, after: int = 0) -> bool:
    job = row(sessions, job_id)
    return job.step >= after + 2 and job.phase in (Phase.SAMPLING, Phase.GRADING, Phase.TRAINING)


def test_a_trainer_alone_saves_its_state_and_its_job_goes_on(
    trainers: Trainers, sessions: Sessions, worker_process: Start
) -> None:
    job_id = trainers.submit(**LONG)
    with worker_process() as process:
        wait_for(lambda: is_in_a_step(sessions, job_id), seconds=120, what="the second step")
        (trainer,) = named(process, "worker.train")
        trainer.terminate()
        assert_nobody_is_left([trainer])
        wait_for(lambda: row(sessions, job_id).attempt == 2, seconds=60, what="a next attempt")
        step = row(sessions, job_id).step
        wait_for(lambda: row(sessions, job_id).step > step, seconds=120, what="a next step")
    assert f"Resumed from the checkpoint of step {step}" in trainers.events(job_id)
    assert row(sessions, job_id).num_losses == 0
    steps = [one["step"] for one in trainers.rows(job_id)]
    assert steps == list(range(len(steps)))


def test_a_pool_process_alone_takes_its_worker_along_and_the_job_goes_on(
    trainers: Trainers, sessions: Sessions, worker_process: Start, tmp_path: Path
) -> None:
    """On the embedded broker, which a process that is killed may have locked."""
    job_id = trainers.submit(**LONG | {"checkpoint_interval": 2})
    with worker_process() as process:
        wait_for(lambda: is_in_a_step(sessions, job_id), seconds=120, what="the second step")
        everybody = family(process)
        owner = int((row(sessions, job_id).lease_owner or "").split(":")[1])
        psutil.Process(owner).terminate()
        assert process.wait(GRACE_SECONDS) == 1
        assert_nobody_is_left(everybody)
    assert "a process of the pool was killed" in (tmp_path / "log").read_text()
    lost_at = row(sessions, job_id).step
    with worker_process():
        give_back(sessions, job_id)
        wait_for(lambda: row(sessions, job_id).step > lost_at, seconds=120, what="a next step")


def give_back(sessions: Sessions, job_id: str) -> None:
    """What the sweeper does once a lease has run out."""
    with sessions.begin() as session:
        job = session.get_one(Job, job_id)
        job.status, job.lease_owner, job.lease_expires_at = Status.QUEUED, None, None


def test_a_worker_that_validates_gives_the_job_back(
    client: TestClient, settings: ServiceSettings, sessions: Sessions, worker_process: Start
) -> None:
    job_id = posted(client)
    # A file that is never read to its end.
    path = settings.artifacts_dir / "files" / row(sessions, job_id).training_file
    path.unlink()
    os.mkfifo(path)
    with worker_process() as process:
        (validator,) = wait_for(
            lambda: named(process, "worker.validate"), seconds=60, what="the validator"
        )
        everybody = family(process)
        process.terminate()
        assert process.wait(GRACE_SECONDS) == 0
        assert_nobody_is_left([validator, *everybody])
    job = row(sessions, job_id)
    assert (job.status, job.lease_owner, job.num_losses) == (Status.VALIDATING_FILES, None, 0)
