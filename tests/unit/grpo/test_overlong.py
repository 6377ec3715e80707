"""The soft punishment near the token limit: DAPO's numbers, and where it shows."""

import pytest

from tests.unit.grpo.tiny import EOS, tiny_config, tiny_policy, tiny_trainer
from worker.grpo.errors import InvalidConfig
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.overlong import COMPONENT, overlong_penalty, punished
from worker.grpo.types import Graded, Rollout


@pytest.mark.parametrize(
    ("num_tokens", "penalty"), [(1, 0), (16384, 0), (18432, -0.5), (19456, -0.75), (20480, -1)]
)
def test_the_penalty_at_the_papers_lengths(num_tokens: int, penalty: float) -> None:
    assert overlong_penalty(num_tokens, max_tokens=20480, buffer_tokens=4096) == penalty


def test_without_a_buffer_there_is_no_penalty() -> None:
    assert overlong_penalty(20480, max_tokens=20480, buffer_tokens=0) == 0
    graded = Graded(1.0, {}, {}, 0.0, "")
    assert punished(graded, rollout(16), tiny_config()) is graded


def rollout(num_tokens: int) -> Rollout:
    return Rollout(0, 0, [5] * num_tokens, [0.0] * num_tokens, "length", [True] * num_tokens)


@pytest.mark.parametrize(("reward", "total"), [(2.0, 1.5), (None, None)])
def test_it_joins_the_reward_and_shows_as_a_component(
    reward: float | None, total: float | None
) -> None:
    config = tiny_config(overlong_buffer_tokens=8)
    found = punished(Graded(reward, {"a": reward}, {}, 0.0, ""), rollout(12), config)
    assert found.reward == total
    assert found.components == {"a": reward, COMPONENT: -0.5}


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_length_alone_teaches_through_it(aggregation: str) -> None:
    """A constant reward has no signal; with the penalty, groups of uneven lengths have."""
    policy = tiny_policy()
    trainer = tiny_trainer(
        policy=policy,
        reward=lambda prompt, rollout: 1.0,
        num_held_out=0,
        total_steps=1,
        overlong_buffer_tokens=15,
        reward_aggregation=aggregation,
        component_weights={"digits": 1.0},
    )
    sampler = HfSampler(policy, eos_ids=[EOS, *range(2, 20)])
    trainer.sampler = trainer.collector.sampler = trainer.gate.sampler = sampler
    (result,) = trainer.steps()
    assert result.metrics[f"rewards/{COMPONENT}/mean"] == pytest.approx(
        result.metrics["reward"] - 1
    )
    for group in result.groups:
        lengths = [len(one.completion_ids) for one in group.rollouts]
        best = max(range(len(lengths)), key=lambda i: group.advantages[i])
        assert lengths[best] == min(lengths)


def test_a_buffer_as_long_as_the_answer_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="overlong_buffer_tokens must be below"):
        tiny_config(overlong_buffer_tokens=16)
