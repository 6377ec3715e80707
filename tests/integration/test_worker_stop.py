"""SIGTERM to a worker in the middle of a step: the job is saved, given back, and goes on."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from processes import python
from supervised import Sessions, row
from trainer_runs import Trainers
from waiting import wait_for

from jobs.artifacts import is_whole
from jobs.status import Phase, Status
from jobs.store import checkpoints
from service.settings import ServiceSettings


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_saves_its_job_for_another(
    client: TestClient,
    trainers: Trainers,
    settings: ServiceSettings,
    sessions: Sessions,
    tmp_path: Path,
) -> None:
    asked = {"max_steps": 500, "batch_size": 4, "group_size": 4, "max_completion_tokens": 8}
    asked |= {"eval_interval": 500, "eval_samples": 2, "checkpoint_interval": 500}
    job_id, log = trainers.submit(**asked), tmp_path / "log"
    given = {
        "data_dir": settings.data_dir,
        "database_url": settings.sqlalchemy_url,
        "poll_seconds": 0.5,
    }

    def is_in_a_step() -> bool:
        job = row(sessions, job_id)
        return job.step >= 2 and job.phase in (Phase.SAMPLING, Phase.GRADING, Phase.TRAINING)

    with python("worker", log=log, **given) as worker:
        wait_for(is_in_a_step, seconds=120, what="the second step")
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()

    job = row(sessions, job_id)
    assert (job.status, job.attempt, job.num_losses) == (Status.QUEUED, 1, 0)
    assert (job.lease_owner, job.lease_expires_at, job.lost) == (None, None, None)
    with sessions() as session:
        [saved] = checkpoints.resumable(session, job_id)
    assert saved.step == job.step >= 2
    assert is_whole(settings.artifacts_dir / saved.folder)

    with python("worker", log=log, **given) as worker:
        wait_for(lambda: row(sessions, job_id).step > saved.step, seconds=120, what="a next step")
        client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").raise_for_status()
        wait_for(
            lambda: row(sessions, job_id).status == Status.CANCELLED, seconds=60, what="the cancel"
        )
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()
    assert f"Resumed from the checkpoint of step {saved.step}" in trainers.events(job_id)
    steps = [one["step"] for one in trainers.rows(job_id)]
    assert steps == list(range(len(steps)))
