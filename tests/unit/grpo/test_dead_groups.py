"""Groups that teach nothing: on which side they are, and that their failures are not lost."""

from concurrent.futures import Future

import pytest

from tests.unit.grpo.tiny import tiny_trainer
from worker.grpo.metrics import dead_side
from worker.grpo.overlong import COMPONENT
from worker.grpo.types import Graded, Prompt, Rollout

RUN = {
    "total_steps": 2,
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 5,
    "num_held_out": 0,
}


def test_dead_groups_are_told_apart_by_the_value_of_their_rewards() -> None:
    """By value, not by rank: of a step whose rewards are all 0.3 nothing is at an end."""
    values = {0: 0.0, 1: 1.0, 2: 0.3, 3: None, 4: -1.0, 5: 7.5}

    def reward(prompt: Prompt, rollout: Rollout) -> float | None:
        return values.get(prompt.index, rollout.sample_index / 4)

    trainer = tiny_trainer(reward=reward, **RUN | {"batch_size": 8, "total_steps": 1})
    metrics = next(trainer.steps()).metrics
    assert metrics["groups/dead_all_zero"] == 2
    assert metrics["groups/dead_all_one"] == 2
    assert metrics["groups/dead_other"] == 1
    assert metrics["groups/dead_ungraded"] == 1
    assert metrics["groups/effective"] == 2
    assert metrics["frac_reward_zero_std"] == 6 / 8


@pytest.mark.parametrize(("reward", "side"), [(0.0, "all_zero"), (1.0, "all_one"), (0.3, "other")])
def test_the_side_of_a_dead_group_is_that_of_its_grader_whatever_the_penalty(
    reward: float, side: str
) -> None:
    punished = Graded(reward - 0.4, {"r": reward, COMPONENT: -0.4}, {}, 0.0, "")
    assert dead_side([punished, punished]) == side


def test_grades_that_failed_in_replaced_groups_count_in_the_error_ratio() -> None:
    """Half of the groups cannot be graded: a refill replaces each of them, and hides none."""

    def half_failing(prompt: Prompt, rollout: Rollout) -> float | None:
        return None if prompt.index % 2 else rollout.sample_index / 4

    changes = {"dynamic_sampling": True, "max_refills": 10, "batch_size": 4, "total_steps": 4}
    results = list(tiny_trainer(reward=half_failing, **RUN | changes).steps())
    graded = [one for result in results for group in result.drawn for one in group.graded]
    ratio = sum(one.reward is None for one in graded) / len(graded)
    # Four steps of four groups: whole passes over the eight prompts, but for the last refill.
    assert ratio == pytest.approx(0.5, abs=0.1)
    failed = 0.0
    for result in results:
        assert not any(one.is_failed for group in result.groups for one in group.graded)
        num_drawn = len(result.drawn)
        dead = result.metrics["groups/dead_ungraded"]
        assert result.metrics["graders/error_ratio"] == pytest.approx(dead / num_drawn)
        assert result.metrics["groups/refill_ratio"] == num_drawn / 4 > 1
        failed += dead * 4
    assert failed / len(graded) == ratio


def test_a_reward_in_the_place_of_a_failed_one_hides_no_failure() -> None:
    def failed(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        future: Future[Graded] = Future()
        future.set_result(Graded(0.0, {"a": None}, {"other_error": 1}, 0.0, ""))
        return future

    trainer = tiny_trainer(**RUN)
    trainer.collector.grade = failed
    metrics = next(trainer.steps()).metrics
    assert metrics["graders/error_ratio"] == 1
    assert metrics["groups/dead_ungraded"] == 2
