"""The main job on the embedded stack: POST, training, adapter; then cancel, pause and faults."""

import csv
import io
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from embedded import Stack, start, stop
from user import assert_each_step_once, loads_in_peft, weights_sha256
from waiting import wait_for

STEPS = 20


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A job that nothing interrupts, and its adapter: what every disturbed one must equal."""
    job_id = stack.create_job(max_steps=STEPS)
    stack.wait_for_status(job_id, "succeeded")
    return job_id, stack.adapter(job_id, tmp_path_factory.mktemp("undisturbed") / "adapter")


def test_job_succeeds_and_the_reward_rises(stack: Stack, undisturbed: tuple[str, Path]) -> None:
    job_id, adapter = undisturbed
    job = stack.job(job_id)
    rows = stack.metrics(job_id)

    assert_each_step_once(rows, STEPS)
    held_out = [row["valid_reward_mean"] for row in rows if "valid_reward_mean" in row]
    assert held_out[-1] > held_out[0] + 0.1
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert sum(rewards[-5:]) > sum(rewards[:5])
    assert job["verdict"] == "improved"
    assert job["fine_tuned_model"].startswith("ft:honed/starter:")
    assert job["error"] is None
    assert job["trained_tokens"] > 0
    loads_in_peft(adapter)


def test_the_client_reads_a_finished_job(stack: Stack, undisturbed: tuple[str, Path]) -> None:
    job_id, _ = undisturbed
    jobs = stack.client.fine_tuning.jobs

    assert jobs.retrieve(job_id).status == "succeeded"
    messages = [event.message for event in jobs.list_events(job_id, limit=100)][::-1]
    expected = [
        f"Created fine-tuning job: {job_id}",
        "Validating training file",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        f"Step {STEPS}/{STEPS}",
        "New fine-tuned model created: ft:honed/starter:",
        "The job has successfully completed",
    ]
    places = [
        next(i for i, message in enumerate(messages) if message.startswith(start))
        for start in expected
    ]
    assert places == sorted(places)
    checkpoints = list(jobs.checkpoints.list(job_id))
    assert checkpoints[0].step_number == STEPS
    assert checkpoints[0].metrics.full_valid_mean_reward is not None
    assert checkpoints[0].fine_tuned_model_checkpoint in {
        one.id for one in stack.client.models.list()
    }

    best = sorted(stack.metrics(job_id), key=lambda row: row.get("valid_reward_mean", -1.0))[-3:]
    kept = {one.step_number for one in checkpoints}
    assert len(kept) in (3, 4), "the best three and the last"
    assert {row["valid_reward_mean"] for row in best} <= {
        one.metrics.valid_reward_mean for one in checkpoints
    }
    folder = stack.folder / "artifacts" / "jobs" / job_id
    wait_for(lambda: not list(folder.glob("*/*/state")), seconds=20, what="the states' end")
    assert {int(path.name.removeprefix("step-")) for path in folder.glob("*/*")} == kept

    samples = stack.get(f"/fine_tuning/jobs/{job_id}/samples", step=STEPS)["data"]
    assert len(samples) == 64
    for sample in samples:
        parts = sample["components"]
        assert sample["reward"] == pytest.approx(0.9 * parts["correct"] + 0.1 * parts["short"])


def test_a_finished_job_tells_in_openais_names(stack: Stack, undisturbed: tuple[str, Path]) -> None:
    job_id, _ = undisturbed
    rows = stack.metrics(job_id)
    told = [
        event.data
        for event in stack.client.fine_tuning.jobs.list_events(job_id, limit=100)
        if event.type == "metrics"
    ][::-1]
    assert [data["step"] for data in told] == list(range(STEPS + 1))
    for data, row in zip(told, rows, strict=True):
        assert data["scores"]["train_reward_mean"] == data["train_mean_reward"] == row.get("reward")
        assert data["scores"]["valid_reward_mean"] == data["full_valid_mean_reward"]
        assert {one["name"] for one in data["scores"]["graders"]} == {"correct", "short"}
    assert told[-1]["timing"]["step"]["full_iteration"] > 0
    (result,) = stack.client.fine_tuning.jobs.retrieve(job_id).result_files
    table = list(csv.DictReader(io.StringIO(stack.client.files.content(result).text)))
    assert [int(line["step"]) for line in table] == list(range(STEPS + 1))
    assert float(table[-1]["train_mean_reward"]) == rows[-1]["reward"]


def test_the_adapter_says_what_it_is(undisturbed: tuple[str, Path]) -> None:
    _, adapter = undisturbed
    names = {path.name for path in adapter.iterdir()}
    assert names >= {"adapter_model.safetensors", "adapter_config.json", "README.md"}
    card = (adapter / "README.md").read_text()
    assert "base_model: honed/starter" in card
    assert f"| {STEPS} |" in card


def test_killed_trainer_resumes_to_the_same_adapter(
    stack: Stack, undisturbed: tuple[str, Path], tmp_path: Path
) -> None:
    job_id = stack.create_job(max_steps=STEPS)
    stack.wait_for_step(job_id, 7)
    (trainer,) = stack.processes("worker.train")
    if sys.platform == "linux":
        assert "worker.spare" in trainer.parent().cmdline(), "it had nothing to import"
    trainer.send_signal(signal.SIGKILL)

    job = stack.wait_for_status(job_id, "succeeded")

    assert job["attempt"] == 2
    assert job["progress"]["first_completion_at"] > job["created_at"]
    assert_each_step_once(stack.metrics(job_id), STEPS)
    adapter = stack.adapter(job_id, tmp_path / "adapter")
    assert weights_sha256(adapter) == weights_sha256(undisturbed[1])


@pytest.mark.slow
def test_killed_worker_resumes_to_the_same_adapter(
    stack: Stack, undisturbed: tuple[str, Path], tmp_path: Path
) -> None:
    job_id = stack.create_job(max_steps=STEPS)
    stack.wait_for_step(job_id, 5)
    for process in stack.processes("worker"):
        process.send_signal(signal.SIGKILL)

    stack.wait_for_status(job_id, "succeeded")

    assert_each_step_once(stack.metrics(job_id), STEPS)
    adapter = stack.adapter(job_id, tmp_path / "adapter")
    assert weights_sha256(adapter) == weights_sha256(undisturbed[1])


def test_cancel_leaves_a_usable_adapter(stack: Stack, tmp_path: Path) -> None:
    job_id = stack.create_job(max_steps=2000)
    stack.wait_for_step(job_id, 3)

    assert stack.client.fine_tuning.jobs.cancel(job_id).status == "cancelled"

    job = stack.wait_for_status(job_id, "cancelled", seconds=10)
    assert job["error"] is None
    (newest, *_) = list(stack.client.fine_tuning.jobs.checkpoints.list(job_id))
    assert newest.step_number == job["step"]
    loads_in_peft(stack.adapter(job_id, tmp_path / "adapter"))


def test_pause_frees_the_slot_and_resume_goes_on_exactly(
    stack: Stack, undisturbed: tuple[str, Path], tmp_path: Path
) -> None:
    job_id = stack.create_job(max_steps=STEPS)
    stack.wait_for_step(job_id, 4)

    stack.client.fine_tuning.jobs.pause(job_id)

    stack.wait_for_status(job_id, "paused", seconds=10)
    other = stack.create_job(max_steps=2)
    stack.wait_for_status(other, "succeeded")
    stack.client.fine_tuning.jobs.resume(job_id)
    stack.wait_for_status(job_id, "succeeded")
    assert_each_step_once(stack.metrics(job_id), STEPS)
    adapter = stack.adapter(job_id, tmp_path / "adapter")
    assert weights_sha256(adapter) == weights_sha256(undisturbed[1])


def test_broker_wiped_while_queued_still_runs(stack: Stack) -> None:
    first = stack.create_job(max_steps=15)
    stack.wait_for_status(first, "running")
    second = stack.create_job(max_steps=2)
    for message in (stack.folder / "broker" / "messages").iterdir():
        message.unlink(missing_ok=True)

    stack.wait_for_status(first, "succeeded")
    stack.wait_for_status(second, "succeeded")


@pytest.mark.slow
def test_a_second_up_on_the_same_folder_goes_on(
    tmp_path: Path, undisturbed: tuple[str, Path]
) -> None:
    folder = tmp_path / "data"
    first = start(folder, HONED_LEASE_SECONDS="4")
    job_id = first.create_job(max_steps=STEPS)
    first.wait_for_step(job_id, 4)
    stop(first)

    second = start(folder, HONED_LEASE_SECONDS="4")
    try:
        second.wait_for_status(job_id, "succeeded")
        assert_each_step_once(second.metrics(job_id), STEPS)
        adapter = second.adapter(job_id, tmp_path / "adapter")
        assert weights_sha256(adapter) == weights_sha256(undisturbed[1])
    finally:
        stop(second)


def test_up_killed_takes_everything_with_it(tmp_path: Path) -> None:
    stack = start(tmp_path / "data")
    job_id = stack.create_job(max_steps=2000)
    stack.wait_for_step(job_id, 1)
    trainers = stack.processes("worker.train")
    children = trainers + stack.processes("worker") + stack.processes("service.sweeper")
    os.kill(stack.process.pid, signal.SIGKILL)
    stack.process.wait()
    stack.process.stdout.close()
    stack.client.close()

    wait_for(
        lambda: not any(child.is_running() for child in children),
        seconds=20,
        what="every process of a killed `honed up` to end",
    )


def test_vanished_archive_is_a_sentence(stack: Stack) -> None:
    job_id = stack.create_job(max_steps=2)
    stack.wait_for_status(job_id, "succeeded")
    folder = stack.folder / "artifacts" / "jobs" / job_id
    # The worker frees what a finished job needs no more, in the same folders at the same time.
    wait_for(lambda: not list(folder.glob("*/*/state")), seconds=60, what="the states' end")
    shutil.rmtree(folder)

    response = stack.client.with_raw_response.models.list()  # the service itself is well
    assert response.http_response.status_code == 200
    with pytest.raises(Exception, match="no longer in the artifact store"):
        stack.get(f"/fine_tuning/jobs/{job_id}/adapter")
