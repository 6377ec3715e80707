"""The main job on the topology that a team runs: PostgreSQL, Redis, two workers."""

import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from scaled import Scaled, start
from user import assert_each_step_once, loads_in_peft, weights_sha256
from waiting import wait_for

pytestmark = pytest.mark.slow

STEPS = 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    """One stack for all; each test brings the workers it needs."""
    running = start(tmp_path_factory.mktemp("scaled"))
    yield running
    running.close()


@pytest.fixture
def worker_a(stack: Scaled) -> Iterator[str]:
    yield from _worker(stack, "a")


@pytest.fixture
def worker_b(stack: Scaled) -> Iterator[str]:
    yield from _worker(stack, "b")


def _worker(stack: Scaled, name: str) -> Iterator[str]:
    stack.start_worker(name)
    yield name
    if name in stack.running:
        stack.stop(name)


@pytest.fixture(scope="module")
def undisturbed(stack: Scaled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of a job that nothing interrupts: what every disturbed one must equal."""
    stack.start_worker("first")
    job_id = stack.create_job(max_steps=STEPS)
    job = stack.wait_for_status(job_id, "succeeded", seconds=240)
    stack.stop("first")
    assert (job["attempt"], job["verdict"]) == (1, "improved")
    adapter = stack.adapter(job_id, tmp_path_factory.mktemp("undisturbed") / "adapter")
    loads_in_peft(adapter)
    return adapter


def assert_as_undisturbed(stack: Scaled, job_id: str, undisturbed: Path, tmp_path: Path) -> None:
    stack.wait_for_status(job_id, "succeeded", seconds=240)
    assert_each_step_once(stack.metrics(job_id), STEPS)
    adapter = stack.adapter(job_id, tmp_path / "adapter")
    assert weights_sha256(adapter) == weights_sha256(undisturbed)


def test_a_killed_trainer_resumes(
    stack: Scaled, worker_a: str, undisturbed: Path, tmp_path: Path
) -> None:
    job_id = stack.create_job(max_steps=STEPS)
    stack.wait_for_step(job_id, 5)
    (trainer,) = stack.running_module(worker_a, "worker.train")
    trainer.kill()
    assert_as_undisturbed(stack, job_id, undisturbed, tmp_path)
    assert stack.job(job_id)["attempt"] == 2


def test_another_worker_goes_on_with_a_killed_ones_job(
    stack: Scaled, worker_a: str, worker_b: str, undisturbed: Path, tmp_path: Path
) -> None:
    job_id = stack.create_job(max_steps=STEPS)
    stack.wait_for_step(job_id, 5)
    holder = stack.holder(job_id)
    stack.kill(holder)

    def taken_over() -> bool:
        return stack.holder(job_id) not in ("", holder)

    wait_for(taken_over, seconds=60, what="the other worker to take over")
    assert_as_undisturbed(stack, job_id, undisturbed, tmp_path)


def test_paused_on_one_worker_and_resumed_on_the_other(
    stack: Scaled, worker_a: str, undisturbed: Path, tmp_path: Path
) -> None:
    job_id = stack.create_job(max_steps=STEPS)
    stack.wait_for_step(job_id, 4)
    stack.client.fine_tuning.jobs.pause(job_id)
    stack.wait_for_status(job_id, "paused", seconds=10)
    stack.stop(worker_a)

    stack.start_worker("other")
    stack.client.fine_tuning.jobs.resume(job_id)
    wait_for(lambda: stack.holder(job_id) == "other", seconds=60, what="the other worker's claim")
    assert_as_undisturbed(stack, job_id, undisturbed, tmp_path)
    stack.stop("other")


def test_two_workers_share_one_queue(stack: Scaled, worker_a: str, worker_b: str) -> None:
    jobs = [stack.create_job(max_steps=6) for _ in range(3)]
    stack.ring(times=3)

    def both_work() -> bool:
        return {"a", "b"} <= {stack.holder(job_id) for job_id in jobs}

    wait_for(both_work, seconds=60, what="both workers to hold a job")
    for job_id in jobs:
        assert stack.wait_for_status(job_id, "succeeded", seconds=240)["attempt"] == 1
        assert_each_step_once(stack.metrics(job_id), 6)


def test_a_wiped_broker_loses_no_job(stack: Scaled, worker_a: str) -> None:
    first = stack.create_job(max_steps=6)
    stack.wait_for_status(first, "running")
    second = stack.create_job(max_steps=2)
    stack.wait_for_status(second, "queued")
    stack.redis.flush()
    for job_id in (first, second):
        stack.wait_for_status(job_id, "succeeded", seconds=240)


def test_a_whole_group_that_is_told_to_stop_ends_within_its_grace_period(
    stack: Scaled, worker_a: str, undisturbed: Path, tmp_path: Path
) -> None:
    """As a service manager does that tells every process of a worker, not its main one alone."""
    job_id = stack.create_job(max_steps=STEPS)
    stack.wait_for_step(job_id, 4)
    stack.stop_group(worker_a)
    assert stack.job(job_id)["status"] in ("queued", "running")
    stack.start_worker("next")
    assert_as_undisturbed(stack, job_id, undisturbed, tmp_path)
    stack.stop("next")


def test_a_job_posted_while_the_broker_is_down_runs_once_it_is_back(
    stack: Scaled, worker_a: str
) -> None:
    stack.redis.stop()
    job_id = stack.create_job(max_steps=2)
    assert stack.job(job_id)["status"] == "validating_files"
    stack.redis.start()
    stack.wait_for_status(job_id, "succeeded", seconds=240)


def test_a_job_posted_while_the_database_is_down_is_refused_and_can_be_sent_again(
    stack: Scaled, worker_a: str
) -> None:
    before = [job.id for job in stack.client.fine_tuning.jobs.list(limit=100)]
    file_id = stack.upload([{"messages": [{"role": "user", "content": "1 + 1"}]}])
    grader = {"type": "length", "input": "{{sample.output_text}}", "unit": "words", "max": 2}
    body = {
        "model": "honed/starter",
        "training_file": file_id,
        "method": {
            "type": "reinforcement",
            "reinforcement": {"grader": grader, "hyperparameters": {"max_steps": 1}},
        },
    }
    stack.postgresql.stop()
    impatient = stack.client.with_options(max_retries=0)
    with pytest.raises(openai.InternalServerError, match="database does not answer") as caught:
        impatient.fine_tuning.jobs.create(**body)
    assert caught.value.status_code == 503
    assert caught.value.code == "database_unavailable"
    assert int(caught.value.response.headers["retry-after"]) > 0
    stack.postgresql.start()

    wait_for(stack.is_ready, seconds=30, what="the service to be ready again")
    job_id = stack.client.fine_tuning.jobs.create(**body).id
    stack.wait_for_status(job_id, "succeeded", seconds=240)
    after = [job.id for job in stack.client.fine_tuning.jobs.list(limit=100)]
    assert after == [job_id, *before]


def test_a_database_that_restarts_under_a_job_costs_no_step(
    stack: Scaled, worker_a: str, undisturbed: Path, tmp_path: Path
) -> None:
    job_id = stack.create_job(max_steps=STEPS)
    stack.wait_for_step(job_id, 4)
    stack.postgresql.stop()
    time.sleep(1.5)  # down for as long as a restart takes
    stack.postgresql.start()
    wait_for(stack.is_ready, seconds=30, what="the service to be ready again")
    assert_as_undisturbed(stack, job_id, undisturbed, tmp_path)
