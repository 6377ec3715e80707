"""kill -9 in every phase of a step: the job ends with the bytes of one that nothing disturbed."""

import signal
from typing import Any

import pytest
import tampers
from tampers import DecidesNothing, KillIn, KillInUpdate
from trainer_runs import HALF_FAILING, Tamper, Trainers, bytes_of, rows_of_two_kinds

# Two updates a step, a reference, refills, patience: as much state as a run can have.
RUN = {
    "max_steps": 4,
    "batch_size": 3,
    "group_size": 4,
    "max_completion_tokens": 8,
    "updates_per_rollout": 2,
    "kl_coef": 0.05,
    "dynamic_sampling": True,
    "eval_interval": 2,
    "eval_samples": 6,
    "eval_pass_k": 2,
    "early_stopping_patience": 9,
    "checkpoint_interval": 2,
}

PHASES: dict[str, Tamper] = {
    "sampling": KillIn("sampling", step=4, call=5),
    "grading": KillIn("grading", step=4, call=1),
    "training": KillInUpdate(2, step=4, num_updates=2),
    "evaluating": KillIn("evaluating", step=4, call=3),
    "saving": tampers.kill_while_the_state_is_written,
}
CORNERS: dict[str, Tamper] = {
    "the first evaluation": KillIn("evaluating", step=0, call=2),
    "sampling, with a checkpoint being written": KillIn("sampling", 3, 1, cuts_writes=True),
    "sampling before any checkpoint": KillIn("sampling", step=1, call=2),
    "training before the first update": KillIn("training", step=4, call=1),
    "evaluating by sampling": KillIn("evaluating", step=4, call=12),
    "saving before the row": tampers.kill_before_the_row,
    "saving before the commit": tampers.kill_before_the_commit,
    "the outcome": tampers.kill_before_the_outcome,
}


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """What a run that nothing disturbs leaves behind; the first test that needs it fills it."""
    return {}


def left_behind(trainers: Trainers, job_id: str) -> dict[str, Any]:
    """The adapters' bytes, and every row of metrics but what the clock says."""
    return {
        "rows": [
            {name: value for name, value in row.items() if not is_of_the_process(name)}
            for row in trainers.rows(job_id)
        ],
        "adapters": {step: bytes_of(at) for step, at in trainers.checkpoints(job_id).items()},
        "metrics events": trainers.events(job_id, "metrics"),
    }


def is_of_the_process(name: str) -> bool:
    """Times, and when the sampler was looked at closely: that depends on when a process began."""
    is_a_time = name.startswith(("time/", "step_time")) or "seconds" in name
    return is_a_time or name.startswith("sampling/sampling_logp")


def assert_exact(trainers: Trainers, undisturbed: dict[str, Any], point: Tamper) -> None:
    if not undisturbed:
        whole = trainers.submit(**RUN)
        assert trainers.attempt(whole) == 0
        undisturbed |= left_behind(trainers, whole)
        assert [row["step"] for row in undisturbed["rows"]] == [0, 1, 2, 3, 4]
        assert len(undisturbed["adapters"][4]) == 2
        assert undisturbed["adapters"][4] != undisturbed["adapters"][2]
        assert any(row["groups/refill_ratio"] > 1 for row in undisturbed["rows"][1:])
        assert len(undisturbed["metrics events"]) == 5
    job_id = trainers.submit(**RUN)

    assert trainers.attempt(job_id, point) == -signal.SIGKILL
    assert trainers.attempt(job_id, DecidesNothing()) == 0

    assert trainers.outcome()["outcome"] == "succeeded"
    left = left_behind(trainers, job_id)
    for row, expected in zip(left["rows"], undisturbed["rows"], strict=True):
        assert {name for name in row if row[name] != expected.get(name)} == set()
    assert left == undisturbed


@pytest.mark.parametrize("point", PHASES.values(), ids=PHASES.keys())
def test_killed_in_a_phase(trainers: Trainers, undisturbed: dict[str, Any], point: Tamper) -> None:
    assert_exact(trainers, undisturbed, point)


def test_killed_in_the_one_update_of_a_step_that_is_not_evaluated(trainers: Trainers) -> None:
    """By default a step has one update, and no copy to go back to."""
    asked = RUN | {"updates_per_rollout": 1, "eval_interval": 4}
    whole, killed = trainers.submit(**asked), trainers.submit(**asked)
    assert trainers.attempt(whole) == 0

    point = KillInUpdate(1, step=3, num_updates=1)
    assert trainers.attempt(killed, point) == -signal.SIGKILL
    assert trainers.attempt(killed, DecidesNothing()) == 0

    assert left_behind(trainers, killed) == left_behind(trainers, whole)


@pytest.mark.slow
@pytest.mark.parametrize("point", CORNERS.values(), ids=CORNERS.keys())
def test_killed_at_a_corner(trainers: Trainers, undisturbed: dict[str, Any], point: Tamper) -> None:
    assert_exact(trainers, undisturbed, point)


@pytest.mark.slow
def test_killed_in_one_phase_after_the_other(
    trainers: Trainers, undisturbed: dict[str, Any]
) -> None:
    """Five deaths, one job; a checkpoint between them, so that they are no poison."""
    job_id = trainers.submit(**RUN | {"max_steps": 6, "checkpoint_interval": 1})
    assert trainers.attempt(job_id, KillIn("sampling", 2, 3)) < 0
    for phase, step in (("grading", 3), ("training", 4), ("evaluating", 4), ("sampling", 6)):
        assert trainers.attempt(job_id, DecidesNothing(), KillIn(phase, step, 1)) < 0
    assert trainers.attempt(job_id, DecidesNothing()) == 0
    whole = trainers.submit(**RUN | {"max_steps": 6, "checkpoint_interval": 1})
    assert trainers.attempt(whole) == 0
    assert left_behind(trainers, job_id) == left_behind(trainers, whole)


@pytest.mark.slow
def test_killed_with_two_threads(trainers: Trainers) -> None:
    whole, killed = trainers.submit(**RUN), trainers.submit(**RUN)
    assert trainers.attempt(whole, tampers.two_threads) == 0

    point = KillInUpdate(2, step=4, num_updates=2)
    assert trainers.attempt(killed, tampers.two_threads, point) == -signal.SIGKILL
    assert trainers.attempt(killed, DecidesNothing(num_threads=2)) == 0

    assert left_behind(trainers, killed) == left_behind(trainers, whole)


@pytest.mark.slow
def test_killed_while_half_of_the_grades_of_a_multi_fail(trainers: Trainers) -> None:
    asked = RUN | {"max_grader_error_ratio": 0.9}
    job = {"grader": HALF_FAILING, "rows": rows_of_two_kinds(), **asked}
    whole, killed = trainers.submit(**job), trainers.submit(**job)
    assert trainers.attempt(whole) == 0
    assert any(row["groups/dead_ungraded"] > 0 for row in trainers.rows(whole)[1:])

    assert trainers.attempt(killed, KillIn("grading", step=4, call=1)) == -signal.SIGKILL
    assert trainers.attempt(killed, DecidesNothing()) == 0

    assert left_behind(trainers, killed) == left_behind(trainers, whole)


def test_what_the_first_attempt_decides_is_stored_and_taken_up(trainers: Trainers) -> None:
    """Threads, micro-batches, the length of an answer: a resume asks neither machine nor model."""
    asked = RUN | {"max_completion_tokens": "auto", "max_steps": 2}
    job_id = trainers.submit(**asked)
    assert trainers.resolved(job_id)["hyperparameters"]["max_completion_tokens"] == "auto"

    killed = trainers.attempt(job_id, KillIn("sampling", step=1, call=1))
    assert killed == -signal.SIGKILL
    stored = trainers.resolved(job_id)
    assert stored["machine"]["threads"] == 1
    assert stored["machine"]["micro_batch_tokens"] > 0
    assert "auto" not in stored["hyperparameters"].values()

    assert trainers.attempt(job_id, DecidesNothing(num_threads_before=2)) == 0
    assert trainers.resolved(job_id) == stored
