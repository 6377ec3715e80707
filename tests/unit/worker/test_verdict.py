"""Whether a job is said to have improved."""

import pytest

from worker.verdict import paired_interval, verdict


def test_clear_gain_clear_loss_and_neither() -> None:
    zeros, ones = [0.0] * 40, [1.0] * 40
    half = [0.0, 1.0] * 20
    assert verdict(zeros, ones) == "improved"
    assert verdict(ones, zeros) == "worse"
    assert verdict(half, half) == "no_change"
    assert verdict(half, half[::-1]) == "no_change"


@pytest.mark.parametrize("after", [None, [], [None, None, None]])
def test_without_scores_nothing_is_claimed(after: list[float | None] | None) -> None:
    assert verdict([1.0, 1.0, 1.0], after) == "unknown"


def test_rows_without_a_reward_are_left_out_of_both_sides() -> None:
    before = [0.0, None, 1.0, 0.0]
    after = [1.0, 1.0, None, 1.0]
    assert paired_interval(before, after) == (1.0, 1.0)


def test_interval_is_near_the_normal_one() -> None:
    before = [0.0] * 200
    after = [1.0] * 60 + [0.0] * 140
    low, high = paired_interval(before, after) or (0, 0)
    # p = 0.3, standard error sqrt(0.3 * 0.7 / 200) = 0.0324
    assert low == pytest.approx(0.3 - 1.96 * 0.0324, abs=0.01)
    assert high == pytest.approx(0.3 + 1.96 * 0.0324, abs=0.01)
