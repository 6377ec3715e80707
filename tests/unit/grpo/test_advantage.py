"""Advantages against hand-computed numbers, and the ways in which they must stay quiet."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.grpo.advantage import advantages, gdpo_advantages, has_signal

NAN = math.nan


def of(*rewards: float, scale: str = "group") -> list[float]:
    """Advantages of one group."""
    return advantages(torch.tensor([rewards]), scale)[0].tolist()


def test_one_hit_in_eight() -> None:
    found = of(1, 0, 0, 0, 0, 0, 0, 0)
    assert found[0] == pytest.approx(2.47417, abs=1e-5)
    assert found[1:] == pytest.approx([-0.35345] * 7, abs=1e-5)


def test_near_equal_rewards_are_not_blown_up() -> None:
    largest = max(abs(a) for a in of(0.5, 0.5001, 0.5, 0.5))
    assert largest == pytest.approx(0.49986, abs=1e-3)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, -3.7, 1e9, 1 / 3])
def test_a_constant_group_is_exactly_zero(scale: str, constant: float) -> None:
    rewards_PG = torch.tensor([[constant] * 7, [0, 1, 0, 1, 1, 0, 0.25]], dtype=torch.float64)
    found = advantages(rewards_PG, scale)
    assert found[0].tolist() == [0.0] * 7
    assert found[1].abs().min() > 0
    assert has_signal(rewards_PG).tolist() == [False, True]


@settings(deadline=None, database=None)
@given(
    st.floats(-1e30, 1e30),
    st.integers(2, 64),
    st.sampled_from(["group", "batch", "none"]),
    st.lists(st.floats(-10, 10), min_size=2, max_size=2),
)
def test_whatever_the_constant_and_whoever_is_beside_it(
    constant: float, size: int, scale: str, others: list[float]
) -> None:
    beside = (others * size)[:size]
    found = advantages(torch.tensor([[constant] * size, beside], dtype=torch.float64), scale)
    assert found[0].tolist() == [0.0] * size
    both = torch.tensor([[[constant, constant]] * size, list(zip(beside, beside, strict=True))])
    assert gdpo_advantages(both.double(), torch.tensor([0.7, 0.3]))[0].tolist() == [0.0] * size


def test_a_failed_grader_is_out_of_the_baseline() -> None:
    found = of(1, 0, NAN, 0.5)
    assert found[2] == 0
    assert [found[0], found[1], found[3]] == pytest.approx(of(1, 0, 0.5))


@pytest.mark.parametrize("rewards", [[NAN] * 4, [1.0, NAN, NAN, NAN], [NAN, 0.5, 0.5, math.inf]])
def test_without_two_different_grades_there_is_no_signal(rewards: list[float]) -> None:
    assert of(*rewards) == [0.0] * 4
    assert has_signal(torch.tensor([rewards])).tolist() == [False]


def test_scale_batch_divides_by_the_spread_of_all() -> None:
    rewards_PG = torch.tensor([[0.0, 1.0], [0.0, 10.0]], dtype=torch.float64)
    spread = float(rewards_PG.flatten().std()) + 1e-4
    assert advantages(rewards_PG, "batch").flatten().tolist() == pytest.approx(
        [-0.5 / spread, 0.5 / spread, -5 / spread, 5 / spread]
    )


def test_scale_none_only_centres() -> None:
    assert of(0, 1, 5, scale="none") == pytest.approx([-2, -1, 3])


def test_scaling_all_rewards_leaves_group_advantages() -> None:
    assert of(0, 3, 7) == pytest.approx(of(0, 300, 700), abs=1e-3)


def test_statistics_are_float64() -> None:
    found = advantages(torch.tensor([[1e8, 1e8 + 8, 1e8, 1e8]], dtype=torch.float32), "none")
    assert found.dtype == torch.float64
    assert found[0].tolist() == [-2, 6, -2, -2]


def gdpo(*groups: list[tuple[float, ...]], weights: tuple[float, ...]) -> list[list[float]]:
    """Advantages of groups of rollouts, each a tuple of rewards."""
    rewards_PGK = torch.tensor(groups, dtype=torch.float64)
    return gdpo_advantages(rewards_PGK, torch.tensor(weights)).tolist()


def test_gdpo_by_hand() -> None:
    """z is 0.5 / 0.70711 in both: the sums -z, z, -2z, 2z have a spread of z sqrt(10 / 3)."""
    found = gdpo([(0, 5), (1, 5)], [(0, 0), (1, 100)], weights=(1, 1))
    z = 0.5 / (math.sqrt(0.5) + 1e-4)
    wide = 50 / (math.sqrt(5000) + 1e-4)
    sums = [-z, z, -z - wide, z + wide]
    spread = math.sqrt(sum(x * x for x in sums) / 3) + 1e-4
    assert [a for row in found for a in row] == pytest.approx([x / spread for x in sums])
    assert found[0][1] == pytest.approx(0.5477, abs=1e-3)
    assert found[1][1] == pytest.approx(1.0954, abs=1e-3)


def test_a_negative_weight_turns_a_reward_round() -> None:
    (found,) = gdpo([(0, 0), (1, 1), (1, 1), (0, 0)], weights=(2, -1))
    assert found[1] > 0 > found[0]
    assert found == pytest.approx([-found[1], found[1], found[1], -found[1]])


@pytest.mark.parametrize("constant", [0.0, 1 / 3, 1e9])
def test_gdpo_of_constant_rewards_is_exactly_zero(constant: float) -> None:
    dead, live = gdpo([(constant, 1 / 7)] * 3, [(0, 1), (1, 0), (1, 1)], weights=(0.7, 0.3))
    assert dead == [0.0] * 3
    assert any(live)


def test_gdpo_leaves_out_what_a_grader_failed_on() -> None:
    (found,) = gdpo([(0, 1), (1, NAN), (1, 0.5), (0.5, 0)], weights=(1, 1))
    (without,) = gdpo([(0, 1), (1, 0.5), (0.5, 0)], weights=(1, 1))
    assert found[1] == 0
    assert [found[0], *found[2:]] == pytest.approx(without)
