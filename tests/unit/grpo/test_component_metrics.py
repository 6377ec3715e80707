"""Each component's part of the advantage, by hand, and its latencies and errors."""

from typing import Any

import pytest

from worker.grpo.aggregate import group_advantages
from worker.grpo.component_metrics import advantage_shares, component_metrics, percentile
from worker.grpo.config import GrpoConfig
from worker.grpo.types import Graded, Group, Prompt


def config(**more: Any) -> GrpoConfig:
    return GrpoConfig(total_steps=1, max_completion_tokens=8, learning_rate=1e-3, **more)


def group(*components: dict[str, float | None], reward: Any, settings: GrpoConfig) -> Group:
    graded = [Graded(reward(**parts), dict(parts), {}, 0.1, "") for parts in components]
    bare = Group(Prompt(0, [1]), [], graded, [])
    return Group(bare.prompt, [], graded, group_advantages([bare], settings)[0])


def test_shares_of_a_weighted_sum_by_hand() -> None:
    """a: 1 0 0 0, b: 0 0 1 1; reward = 3a + b: 3 0 1 1, mean 1.25, centred 1.75 -1.25 -.25 -.25.

    3a centred: 2.25 -.75 -.75 -.75; b centred: -.5 -.5 .5 .5. The sum of squares is 4.75, of which
    a has 3.9375 + .9375 + .1875 + .1875 = 5.25 and b -.875 + .625 - .125 - .125 = -.5.
    """
    settings = config(component_weights={"a": 3.0, "b": 1.0})
    rows = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 1.0}]
    one = group(*rows, reward=lambda a, b: 3 * a + b, settings=settings)
    shares = advantage_shares([one], settings)
    assert shares == pytest.approx({"a": 5.25 / 4.75, "b": -0.5 / 4.75})


def test_groups_are_weighed_as_their_advantages_are() -> None:
    """Two groups, in each of which one component alone moves: half of the variance each."""
    settings = config(component_weights={"a": 1.0, "b": 1.0})
    first = group({"a": 0.0, "b": 5.0}, {"a": 1.0, "b": 5.0}, reward=lambda a, b: a + b,
                  settings=settings)  # fmt: skip
    second = group({"a": 2.0, "b": 0.0}, {"a": 2.0, "b": 100.0}, reward=lambda a, b: a + b,
                   settings=settings)  # fmt: skip
    shares = advantage_shares([first, second], settings)
    assert shares == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-3)
    unscaled = config(component_weights={"a": 1.0, "b": 1.0}, advantage_scale="none")
    groups = [
        Group(one.prompt, [], one.graded, group_advantages([one], unscaled)[0])
        for one in (first, second)
    ]
    assert advantage_shares(groups, unscaled)["b"] == pytest.approx(10000 / 10001)


def test_a_reward_that_is_no_weighted_sum_is_fitted() -> None:
    settings = config(advantage_scale="none")
    rows = [{"a": float(i), "b": float(i % 2)} for i in range(6)]
    product = group(*rows, reward=lambda a, b: a * b, settings=settings)
    shares = advantage_shares([product], settings)
    assert 0.3 < sum(share for share in shares.values() if share is not None) < 1
    alone = group(*[{"a": float(i)} for i in range(4)], reward=lambda a: a**1, settings=settings)
    assert advantage_shares([alone], settings) == pytest.approx({"a": 1.0})


def test_failed_rollouts_and_dead_groups_have_no_part() -> None:
    settings = config(component_weights={"a": 1.0})
    dead = group({"a": 1.0}, {"a": 1.0}, reward=lambda a: a, settings=settings)
    assert advantage_shares([dead], settings) == {"a": None}
    failed = group({"a": None}, {"a": 1.0}, {"a": 2.0}, reward=lambda a: a, settings=settings)
    assert advantage_shares([failed, dead], settings) == pytest.approx({"a": 1.0})


def test_latencies_errors_and_sums() -> None:
    graded = [
        Graded(
            None if number < 2 else 1.0,
            {"a": None if number < 2 else 1.0},
            {},
            0.1,
            "",
            part_seconds={"a": number / 10},
            part_errors={"a": ("other_error",) if number < 2 else ()},
        )
        for number in range(20)
    ]
    groups = [Group(Prompt(0, [1]), [], graded, [0.0] * 20)]
    metrics = component_metrics(groups, groups, config())
    assert metrics["rewards/a/seconds_p50"] == pytest.approx(0.9)
    assert metrics["rewards/a/seconds_p95"] == pytest.approx(1.8)
    assert metrics["rewards/a/error_ratio"] == 0.1
    assert metrics["rewards/a/errors/other_error"] == 0.1


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 2.0), (95, 4.0), (0, 1.0), (100, 4.0), (25, 1.0), (26, 2.0)]
)
def test_percentiles_are_values_that_occurred(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == expected
