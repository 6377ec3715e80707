"""What a step makes of rewards: constants, failures, refills, and updates that must not happen."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.unit.grpo.tiny import digit_share, tiny_trainer
from worker.grpo.errors import Interrupted, NonFiniteGradients
from worker.grpo.hooks import Hooks
from worker.grpo.types import Graded, Phase, Prompt, Rollout

RUN = {
    "total_steps": 2,
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 5,
    "num_held_out": 0,
}


@pytest.mark.parametrize("constant", [0.0, 1.0, 1 / 3])
def test_a_constant_reward_moves_nothing(constant: float) -> None:
    trainer = tiny_trainer(reward=lambda prompt, rollout: constant, **RUN)
    before = trainer.policy.adapter_fingerprint()
    [first, _] = list(trainer.steps())
    assert trainer.policy.adapter_fingerprint() == before
    assert first.metrics["frac_reward_zero_std"] == 1
    assert first.metrics["groups/effective"] == 0
    assert first.metrics["loss"] is None
    assert first.metrics["reward"] == pytest.approx(constant)
    assert {a for group in first.groups for a in group.advantages} == {0.0}


def test_a_table_of_values_gives_the_gradients_of_the_function_it_was_made_of() -> None:
    """The reward need not be differentiable: nothing but its values enters the update."""
    table: dict[tuple[int, ...], float] = {}

    def remembered(prompt: Prompt, rollout: Rollout) -> float:
        key = (prompt.index, rollout.sample_index, *rollout.completion_ids)
        return table.setdefault(key, digit_share(prompt, rollout))

    first = tiny_trainer(reward=remembered, **RUN)
    list(first.steps())
    second = tiny_trainer(
        reward=lambda p, r: table[p.index, r.sample_index, *r.completion_ids], **RUN
    )
    list(second.steps())
    assert second.policy.adapter_fingerprint() == first.policy.adapter_fingerprint()


def test_a_failed_grader_is_counted_and_teaches_nothing() -> None:
    def flaky(prompt: Prompt, rollout: Rollout) -> float | None:
        return None if rollout.sample_index == 1 else digit_share(prompt, rollout)

    result = next(tiny_trainer(reward=flaky, **RUN).steps())
    assert result.metrics["graders/error_ratio"] == pytest.approx(1 / 4)
    for group in result.groups:
        assert group.advantages[1] == 0
        assert group.graded[1].errors == {"crash": 1}


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -1e300])
def test_a_reward_that_is_no_number_is_a_failed_grader(reward: float) -> None:
    def odd(prompt: Prompt, rollout: Rollout) -> float:
        return reward if rollout.sample_index == 1 else digit_share(prompt, rollout)

    result = next(tiny_trainer(reward=odd, **RUN).steps())
    assert result.groups[0].graded[1].reward is None
    assert result.groups[0].graded[1].errors == {"not_finite": 1}
    assert result.metrics["reward"] == pytest.approx(result.metrics["reward"])


def test_all_graders_failing_is_a_step_without_signal() -> None:
    trainer = tiny_trainer(reward=lambda prompt, rollout: None, **RUN)
    result = next(trainer.steps())
    assert result.metrics["reward"] is None
    assert result.metrics["frac_reward_zero_std"] == 1


def half_dead(prompt: Prompt, rollout: Rollout) -> float:
    return 0.0 if prompt.index % 2 else rollout.sample_index / 4


def test_dynamic_sampling_refills_with_the_next_prompts() -> None:
    changes = {"dynamic_sampling": True, "max_refills": 10, "batch_size": 3}
    trainer = tiny_trainer(reward=half_dead, **RUN | changes)
    results = list(trainer.steps())
    for result in results:
        assert len(result.groups) == 3
        assert result.metrics["groups/effective"] == 3
        assert result.metrics["groups/refill_ratio"] >= 1
    drawn = sum(result.metrics["groups/refill_ratio"] * 3 for result in results)
    assert trainer.counts.num_prompts == round(drawn)


def test_groups_that_a_refill_replaced_are_counted_by_side() -> None:
    """Prompts 0 to 7: four without signal at the bottom, two at the top, two that teach."""
    visits: list[int] = []

    def reward(prompt: Prompt, rollout: Rollout) -> float:
        if rollout.sample_index == 0:
            visits.append(prompt.index)
        if prompt.index < 6:
            return float(prompt.index >= 4)
        return rollout.sample_index / 3

    changes = {"dynamic_sampling": True, "max_refills": 8, "batch_size": 2, "total_steps": 4}
    trainer = tiny_trainer(reward=reward, **RUN | changes)
    for result in trainer.steps():
        metrics, drawn = result.metrics, sorted(visits)
        visits.clear()
        zero, one = sum(index < 4 for index in drawn), sum(index in (4, 5) for index in drawn)
        assert metrics["groups/dead_all_zero"] == zero
        assert metrics["groups/dead_all_one"] == one
        assert metrics["groups/effective"] == 2
        assert metrics["groups/refill_ratio"] == len(drawn) / 2
        assert metrics["frac_reward_zero_std"] == pytest.approx((zero + one) / len(drawn))
        assert [group.prompt.index in (6, 7) for group in result.groups] == [True, True]


def test_dynamic_sampling_is_capped_and_falls_back() -> None:
    changes = {"dynamic_sampling": True, "max_refills": 1, "batch_size": 3}
    trainer = tiny_trainer(reward=lambda prompt, rollout: 0.0, **RUN | changes)
    result = next(trainer.steps())
    assert len(result.groups) == 3
    assert result.metrics["groups/refill_ratio"] == 2
    assert result.metrics["groups/effective"] == 0


def test_an_infinite_gradient_is_skipped_counted_and_at_last_ends_the_run() -> None:
    trainer = tiny_trainer(max_nonfinite_updates=1, **RUN)
    parameter = next(iter(trainer.policy.trainable.values()))
    parameter.register_hook(lambda gradient: gradient * torch.inf)
    before = trainer.policy.adapter_fingerprint()
    steps = trainer.steps()
    assert next(steps).metrics["updates/num_nonfinite"] == 1
    assert trainer.policy.adapter_fingerprint() == before
    with pytest.raises(NonFiniteGradients, match="2 updates came out NaN or infinite"):
        next(steps)


def test_mask_truncated_trains_on_what_stopped_by_itself() -> None:
    trainer = tiny_trainer(mask_truncated=True, **RUN)
    result = next(trainer.steps())
    work = trainer.updater.prepare(result.groups)
    stopped = [r for g in result.groups for r in g.rollouts if r.finish_reason == "stop"]
    assert work.num_step_tokens == sum(len(r.completion_ids) for r in stopped)


@pytest.mark.parametrize("updates_per_rollout", [1, 2])
def test_warm_up_is_linear_in_steps_and_then_constant(updates_per_rollout: int) -> None:
    changes = {"total_steps": 6, "updates_per_rollout": updates_per_rollout}
    trainer = tiny_trainer(warmup_steps=4, **RUN | changes)
    rates = [result.metrics["learning_rate"] for result in trainer.steps()]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_without_held_out_prompts_there_is_no_step_0_and_no_evaluation() -> None:
    results = list(tiny_trainer(**RUN).steps())
    assert [result.step for result in results] == [1, 2]
    assert [result.evaluation for result in results] == [None, None]


def test_evaluations_come_at_the_interval_and_at_both_ends() -> None:
    trainer = tiny_trainer(**RUN | {"total_steps": 5, "eval_interval": 2, "num_held_out": 3})
    evaluated = {r.step: r.evaluation for r in trainer.steps() if r.evaluation}
    assert evaluated.keys() == {0, 2, 4, 5}
    assert len(evaluated[0].rewards) == 3
    assert evaluated[0].reward == pytest.approx(sum(evaluated[0].rewards) / 3)


def test_progress_tells_each_phase_from_start_to_end() -> None:
    told: list[tuple[Phase, int, int]] = []
    hooks = Hooks(progress=lambda *what: told.append(what))
    list(tiny_trainer(hooks=hooks, **RUN | {"total_steps": 1, "num_held_out": 2}).steps())
    phases = list(dict.fromkeys(phase for phase, _, _ in told))
    assert phases == ["evaluating", "sampling", "grading", "training"]
    for phase in phases:
        counts = [(done, total) for p, done, total in told if p == phase]
        assert counts[-1][0] == counts[-1][1] > 0
    sampling = [done for phase, done, _ in told if phase == "sampling"]
    assert sampling == list(range(9))


def test_an_evaluation_tells_that_it_lives_while_it_waits_for_grades() -> None:
    """A progress clock that hears nothing for too long ends the run."""
    num_told, release = 0, threading.Event()

    def progress(phase: Phase, done: int, total: int) -> None:
        nonlocal num_told
        num_told += 1
        if num_told == 10:  # more than there are answers
            release.set()

    trainer = tiny_trainer(hooks=Hooks(progress=progress), **RUN | {"num_held_out": 2})
    with ThreadPoolExecutor(2) as pool:

        def grade(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
            return pool.submit(lambda: Graded(float(release.wait(60)), {}, {}, 0.0, ""))

        evaluator = replace(trainer.evaluator, grade=grade)
        assert evaluator.evaluate(None).rewards == [1.0, 1.0], "nothing was said while it waited"


def test_grading_overlaps_sampling_and_a_stop_is_heard_while_it_waits() -> None:
    """Grades come from threads that never answer; the hook is still asked and can stop."""
    release = threading.Event()
    asked = 0

    def interrupt() -> None:
        nonlocal asked
        asked += is_waiting
        if asked == 3:
            raise Interrupted

    is_waiting = 0

    def progress(phase: Phase, done: int, total: int) -> None:
        nonlocal is_waiting
        is_waiting = int(phase == "grading")

    trainer = tiny_trainer(hooks=Hooks(interrupt, progress), **RUN)
    with ThreadPoolExecutor(1) as pool:

        def grade(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
            return pool.submit(release.wait)

        trainer.collector.grade = grade
        with pytest.raises(Interrupted):
            next(trainer.steps())
        release.set()


def test_what_a_grader_raises_comes_out() -> None:
    def broken(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        future: Future[Graded] = Future()
        future.set_exception(ZeroDivisionError("in the grader"))
        return future

    trainer = tiny_trainer(**RUN)
    trainer.collector.grade = broken
    with pytest.raises(ZeroDivisionError, match="in the grader"):
        next(trainer.steps())


def test_metrics_are_finite_numbers_or_none_and_counts_grow() -> None:
    results = list(tiny_trainer(kl_coef=0.1, **RUN | {"total_steps": 3}).steps())
    for result in results:
        for name, value in result.metrics.items():
            assert value is None or value == pytest.approx(value), name
        assert result.metrics["rewards/digits/mean"] == pytest.approx(result.metrics["reward"])
        assert result.metrics["time/sampling_seconds"] <= result.metrics["step_time"]
    for before, after in pairwise(results):
        assert after.metrics["num_tokens"] > before.metrics["num_tokens"]
        assert after.metrics["epoch"] == before.metrics["epoch"] + 2 / 8
    assert results[0].metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert results[2].metrics["kl"] > 0


def test_the_base_is_the_same_after_a_run() -> None:
    trainer = tiny_trainer(**RUN)
    before = trainer.policy.base_checksum()
    list(trainer.steps())
    assert trainer.policy.base_checksum() == before
