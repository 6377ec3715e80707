"""Held-out numbers: greedy, pass@k, what was gained since the baseline, and when to stop."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.grpo.tiny import disturb, tiny_policy, tiny_trainer
from worker.grpo import lift
from worker.grpo.counts import Counts
from worker.grpo.evaluate import MAX_PASS_PROMPTS
from worker.grpo.lift import Lift, paired_lift
from worker.grpo.pass_at_k import pass_at_k
from worker.grpo.types import Baseline, Prompt, Rollout

RUN = {
    "total_steps": 2,
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 5,
    "eval_interval": 1,
    "num_held_out": 4,
}


@pytest.mark.parametrize(
    ("rewards", "k", "expected"),
    [
        ([1, 0, 0, 0], 1, 1 / 4),
        ([1, 0, 0, 0], 2, 1 / 2),  # 1 - C(3, 2) / C(4, 2)
        ([1, 1, 0, 0], 2, 5 / 6),  # 1 - C(2, 2) / C(4, 2)
        ([1, 0, 0, 0], 4, 1),
        ([0.49, 0.2, 0, -1], 4, 0),
        ([0.5, 0, 0, 0], 4, 1),
        ([1, None, 0, 0], 4, None),
    ],
)
def test_pass_at_k_by_hand(rewards: list[float | None], k: int, expected: float | None) -> None:
    assert pass_at_k(rewards, k=k, threshold=0.5) == (expected and pytest.approx(expected))


def test_pass_at_k_of_fewer_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@3 needs 3 answers"):
        pass_at_k([1.0, 0.0], k=3, threshold=0.5)


def test_the_interval_of_a_lift_is_near_the_normal_one() -> None:
    gain = paired_lift([0.0] * 200, [1.0] * 60 + [0.0] * 140)
    assert gain is not None
    assert gain.mean == pytest.approx(0.3)
    # p = 0.3, standard error sqrt(0.3 * 0.7 / 200) = 0.0324
    assert gain.low == pytest.approx(0.3 - 1.96 * 0.0324, abs=0.01)
    assert gain.high == pytest.approx(0.3 + 1.96 * 0.0324, abs=0.01)


def test_pairs_are_compared_and_not_means() -> None:
    """Rows that differ widely, each of which gained the same: there is no doubt about the gain."""
    before = [0.0, 10.0, -5.0, 3.0] * 2
    gain = paired_lift(before, [reward + 0.25 for reward in before])
    assert (gain.low, gain.mean, gain.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_interval_needs_no_more_memory_for_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 held-out rows would be 320 MB of resamples at once; in parts they are the same."""
    before, after = [0.0] * 10_000, [float(row % 3 == 0) for row in range(10_000)]
    drawn: list[int] = []
    randint = torch.randint

    def watched(high: int, shape: tuple[int, int], **kwargs: torch.Generator) -> torch.Tensor:
        drawn.append(shape[0] * shape[1])
        return randint(high, shape, **kwargs)

    monkeypatch.setattr(torch, "randint", watched)
    found = paired_lift(before, after)
    assert sum(drawn) == lift.NUM_RESAMPLES * 10_000
    assert max(drawn) == lift.MAX_DRAWS
    monkeypatch.setattr(lift, "MAX_DRAWS", sum(drawn))
    assert paired_lift(before, after) == found


def test_rows_without_a_reward_are_left_out_of_both_sides() -> None:
    gain = paired_lift([0.0, None, 1.0, 0.0], [1.0, 1.0, None, 1.0])
    assert gain == Lift(1.0, None, None)
    assert paired_lift([1.0, None], [None, 1.0]) is None
    assert paired_lift([], []) is None


def test_each_evaluation_has_greedy_and_sampled_numbers() -> None:
    trainer = tiny_trainer(**RUN | {"eval_pass_k": 3, "eval_pass_threshold": 0.2})
    for result in trainer.steps():
        evaluation, metrics = result.evaluation, result.metrics
        assert len(evaluation.rewards) == len(evaluation.sampled_rewards) == 4
        assert {len(row) for row in evaluation.sampled_rewards} == {3}
        passed = [[reward >= 0.2 for reward in row] for row in evaluation.sampled_rewards]
        assert evaluation.passes == [float(any(row)) for row in passed]
        assert metrics["eval_pass@1"] == pytest.approx(sum(map(sum, passed)) / 12)
        assert metrics["eval_pass@3"] == pytest.approx(sum(map(any, passed)) / 4)
        assert metrics["eval_best@3"] == pytest.approx(
            sum(max(row) for row in evaluation.sampled_rewards) / 4
        )
        assert metrics["eval_reward"] == pytest.approx(sum(evaluation.rewards) / 4)


def test_the_baseline_comes_first_and_later_evaluations_are_paired_with_it() -> None:
    results = list(tiny_trainer(**RUN | {"eval_pass_k": 2, "num_held_out": 8}).steps())
    first = results[0]
    assert first.step == 0
    assert not any("lift" in name for name in first.metrics)
    for result in results[1:]:
        for name, now, then in (
            ("eval_lift", result.evaluation.rewards, first.evaluation.rewards),
            ("eval_pass@2_lift", result.evaluation.passes, first.evaluation.passes),
        ):
            gained = sum(new - old for new, old in zip(now, then, strict=True)) / len(now)
            assert result.metrics[f"{name}/mean"] == pytest.approx(gained)
            low, high = result.metrics[f"{name}/low"], result.metrics[f"{name}/high"]
            assert low <= result.metrics[f"{name}/mean"] <= high


def test_a_policy_that_does_not_move_is_evaluated_the_same_each_time() -> None:
    """Greedy and sampled: what differs between two evaluations is the policy, not the draw."""
    evaluator = tiny_trainer(**RUN | {"eval_pass_k": 4}).evaluator
    first = evaluator.evaluate(None)
    second = evaluator.evaluate(Baseline(first.rewards, first.passes))
    assert second.sampled_rewards == first.sampled_rewards
    assert len({reward for row in first.sampled_rewards for reward in row}) > 1
    assert second.lift == second.pass_lift == Lift(0.0, None, None)


def test_one_answer_a_prompt_is_greedy_alone() -> None:
    result = next(tiny_trainer(**RUN | {"eval_pass_k": 1}).steps())
    assert result.evaluation.sampled_rewards == []
    assert not any("pass" in name or "best" in name for name in result.metrics)


def test_only_the_first_prompts_are_answered_by_sampling() -> None:
    run = RUN | {"eval_pass_k": 2, "num_held_out": MAX_PASS_PROMPTS + 3}
    evaluation = next(tiny_trainer(**run).steps()).evaluation
    assert len(evaluation.rewards) == MAX_PASS_PROMPTS + 3
    assert len(evaluation.sampled_rewards) == len(evaluation.passes) == MAX_PASS_PROMPTS


def test_a_failed_grader_is_neither_a_pass_nor_a_miss() -> None:
    def flaky(prompt: Prompt, rollout: Rollout) -> float | None:
        return None if prompt.index == 1 and rollout.sample_index == 1 else 1.0

    result = next(tiny_trainer(reward=flaky, **RUN | {"eval_pass_k": 2}).steps())
    assert result.evaluation.passes == [1.0, None, 1.0, 1.0]
    assert result.metrics["eval_pass@2"] == 1
    assert result.metrics["eval_best@2"] == 1


def never_better(prompt: Prompt, rollout: Rollout) -> float:
    """Nothing to learn, and nothing to gain."""
    return 0.5


PATIENT = RUN | {"total_steps": 12, "eval_interval": 2, "early_stopping_patience": 2}


def test_it_stops_when_evaluations_no_longer_get_better() -> None:
    trainer = tiny_trainer(reward=never_better, **PATIENT)
    # The baseline is the best; steps 2 and 4 are not better than it.
    assert [result.step for result in trainer.steps()] == [0, 1, 2, 3, 4]
    assert trainer.is_stopped_early
    assert trainer.counts.best_evaluation == 0.5
    assert list(trainer.steps()) == []


def test_a_new_best_starts_the_wait_again() -> None:
    evaluation = tiny_trainer(**RUN).evaluator.evaluate(None)
    counts, waits = Counts(step=0), []
    for reward in (0.1, 0.2, 0.2, 0.3, 0.1, None, 0.2):
        counts = counts.evaluated(replace(evaluation, reward=reward))
        waits.append(counts.num_evaluations_since_best)
    assert waits == [0, 0, 1, 0, 1, 1, 2]
    assert counts.best_evaluation == 0.3


def test_the_wait_goes_on_over_a_resume(tmp_path: Path) -> None:
    first = tiny_trainer(reward=never_better, **PATIENT)
    for result in first.steps():
        if result.step == 2:
            first.save(tmp_path)
            break
    policy = tiny_policy()
    disturb(policy, 0.5)
    second = tiny_trainer(policy=policy, reward=never_better, **PATIENT)
    second.restore(tmp_path)
    assert second.counts == first.counts
    assert [result.step for result in second.steps()] == [3, 4]


def test_without_patience_it_goes_to_the_end() -> None:
    trainer = tiny_trainer(reward=never_better, **PATIENT | {"early_stopping_patience": None})
    assert [result.step for result in trainer.steps()][-1] == 12
    assert not trainer.is_stopped_early


def test_an_evaluation_without_a_grade_is_neither_better_nor_worse() -> None:
    trainer = tiny_trainer(
        reward=lambda prompt, rollout: None, **PATIENT | {"early_stopping_patience": 1}
    )
    assert [result.step for result in trainer.steps()][-1] == 12
    assert trainer.counts.best_evaluation is None
