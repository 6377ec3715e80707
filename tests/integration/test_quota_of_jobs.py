"""A running job whose project has no room left: paused with all it did, and gone on from there."""

import pytest
from sqlalchemy import update
from trainer_runs import Trainers, bytes_of

from jobs.artifacts import is_whole
from jobs.db import transaction
from jobs.models import Job, Project
from jobs.store import attempts
from jobs.store.attempts import Claim

STEPS = 8
RUN = {
    # The writer that finds the quota reached is behind the loop by four saved steps at most.
    "max_steps": STEPS,
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 6,
    "eval_interval": STEPS,
    "eval_samples": 2,
    "checkpoint_interval": 1,
}
STORAGE = "/v1/files/storage"


def allow(trainers: Trainers, num_bytes: int) -> None:
    with transaction(trainers.sessions) as session:
        session.execute(update(Project).values(quota_bytes=num_bytes))


def used(trainers: Trainers) -> int:
    return int(trainers.client.get(STORAGE).json()["used_bytes"])


@pytest.mark.slow
def test_a_job_that_reaches_the_quota_is_paused_with_all_it_did_and_goes_on(
    trainers: Trainers,
) -> None:
    undisturbed = trainers.submit(**RUN)
    assert trainers.attempt(undisturbed) == 0

    job_id = trainers.submit(**RUN)
    allow(trainers, used(trainers) + 1)
    assert trainers.attempt(job_id) == 0
    outcome = trainers.outcome()
    assert outcome["outcome"] == "limit_reached"
    assert "its project's storage is used up" in outcome["message"]
    assert "DELETE /v1/files/{id}" in outcome["message"]
    done = max(row["step"] for row in trainers.rows(job_id))
    assert 1 <= done < STEPS
    newest, *_ = trainers.checkpoints(job_id).items()
    assert newest[0] == done
    assert is_whole(newest[1].parent)

    with transaction(trainers.sessions) as session:
        attempts.limited(session, Claim(job_id, 1), outcome["message"])
    url = f"/v1/fine_tuning/jobs/{job_id}"
    refused = trainers.client.post(f"{url}/resume")
    assert refused.json()["error"]["code"] == "storage_quota_exceeded"
    allow(trainers, used(trainers) + 10**9)
    assert trainers.client.post(f"{url}/resume").json()["status"] == "queued"
    assert trainers.attempt(job_id) == 0
    assert trainers.outcome()["outcome"] == "succeeded"
    assert [row["step"] for row in trainers.rows(job_id)] == list(range(STEPS + 1))
    ends = [bytes_of(trainers.checkpoints(one)[STEPS]) for one in (job_id, undisturbed)]
    weights = [{name: end[name] for name in end if name.endswith("safetensors")} for end in ends]
    assert weights[0] == weights[1] != {}


def test_what_a_trainer_saves_is_counted_as_it_lies_there(trainers: Trainers) -> None:
    job_id = trainers.submit(**RUN)
    assert trainers.attempt(job_id) == 0
    folders = trainers.settings.artifacts_dir / "jobs" / job_id
    stored = sum(path.stat().st_size for path in folders.rglob("*") if path.is_file())
    kinds = trainers.client.get(STORAGE).json()["by_kind"]
    assert kinds["adapters"] + kinds["training_states"] == stored
    with trainers.sessions() as session:
        assert kinds["samples"] == session.get_one(Job, job_id).sample_bytes > 100
