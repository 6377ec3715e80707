"""A job whose reward is its owner's Python, through the whole service, sandbox and all."""

import contextlib
from typing import Any

import psutil
import pytest
from embedded import Stack

STEPS = 20
PARTIAL_CREDIT = """
import re

def grade(sample, item):
    found = re.findall(r"-?[0-9]+", sample["output_text"])
    right = bool(found) and found[-1] == item["answer"]
    return 0.9 * right + 0.1 * (len(sample["output_text"]) <= 6)
"""
RANKED = """
def grade_group(samples, item):
    right = [float(one["output_text"].strip() == item["answer"]) for one in samples]
    shortest = min(len(one["output_text"]) for one in samples)
    short = [float(len(one["output_text"]) == shortest) for one in samples]
    return [0.9 * a + 0.1 * b for a, b in zip(right, short)]
"""

pytestmark = pytest.mark.slow


def create_job(stack: Stack, source: str) -> str:
    return stack.create_job(max_steps=STEPS, grader={"type": "python", "source": source})


def samples(stack: Stack, job_id: str) -> list[dict[str, Any]]:
    path = f"/fine_tuning/jobs/{job_id}/samples"
    return [one for step in range(1, STEPS + 1) for one in stack.get(path, step=step)["data"]]


def assert_the_reward_rose(stack: Stack, job_id: str) -> None:
    rows = stack.metrics(job_id)
    held_out = [row["valid_reward_mean"] for row in rows if "valid_reward_mean" in row]
    assert held_out[-1] > held_out[0] + 0.1


def kill_sandboxes(trainer: psutil.Process) -> int:
    """End all that runs in the trainer's sandboxes; how many processes that were."""
    killed = 0
    for process in trainer.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a grader's child lives for a few calls
            if "inside.main" in " ".join(process.cmdline()):
                process.kill()
                killed += 1
    return killed


@pytest.mark.parametrize(
    ("source", "verdict"),
    [(PARTIAL_CREDIT, "improved"), (RANKED, "unknown")],
    ids=["grade", "grade_group"],
)
def test_the_reward_rises(stack: Stack, source: str, verdict: str) -> None:
    job_id = create_job(stack, source)
    job = stack.wait_for_status(job_id, "succeeded")
    assert_the_reward_rose(stack, job_id)
    assert job["verdict"] == verdict
    assert not any(one["errors"] for one in samples(stack, job_id))
    events = stack.client.fine_tuning.jobs.list_events(job_id, limit=5)
    told = any("ranks the answers" in event.message for event in events)
    assert told == (verdict == "unknown"), "why there is no verdict"


def test_killed_sandboxes_cost_the_samples_in_flight(stack: Stack) -> None:
    job_id = create_job(stack, PARTIAL_CREDIT)
    stack.wait_for_step(job_id, 4)
    (trainer,) = stack.processes("worker.train")
    assert kill_sandboxes(trainer) > 0

    job = stack.wait_for_status(job_id, "succeeded")

    assert job["attempt"] == 1
    assert_the_reward_rose(stack, job_id)
    lost = [one for one in samples(stack, job_id) if one["errors"]]
    assert len(lost) <= 4
    assert all(one["reward"] is None for one in lost)
