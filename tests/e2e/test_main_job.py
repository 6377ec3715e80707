"""The main job on the embedded stack: POST, training, adapter; then cancel, pause and faults."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from embedded import Stack, start, stop, wait_for

from jobs.registry import STARTER_FOLDER

STEPS = 20


def weights_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def assert_each_step_once(rows: list[dict[str, Any]], total: int) -> None:
    assert [row["step"] for row in rows] == list(range(total + 1))


def loads_in_peft(adapter: Path) -> None:
    """In a process that knows nothing of this project."""
    code = (
        "import sys\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n"
        "base = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "model = PeftModel.from_pretrained(base, sys.argv[2])\n"
        "assert any(p.abs().sum() > 0 for n, p in model.named_parameters() if 'lora_B' in n)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(STARTER_FOLDER), str(adapter)], check=True, cwd=adapter
    )


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

    samples = stack.get(f"/fine_tuning/jobs/{job_id}/samples", step=STEPS)["data"]
    assert len(samples) == 64
    for sample in samples:
        parts = sample["components"]
        assert sample["reward"] == pytest.approx(0.9 * parts["correct"] + 0.1 * parts["short"])


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
    trainer.send_signal(signal.SIGKILL)

    job = stack.wait_for_status(job_id, "succeeded")

    assert job["attempt"] == 2
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

    stack.client.fine_tuning.jobs.cancel(job_id)

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
    shutil.rmtree(stack.folder / "artifacts" / "jobs" / job_id)

    response = stack.client.with_raw_response.models.list()  # the service itself is well
    assert response.http_response.status_code == 200
    with pytest.raises(Exception, match="no longer in the artifact store"):
        stack.get(f"/fine_tuning/jobs/{job_id}/adapter")
