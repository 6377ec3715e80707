"""Which formulas are weighted sums, and the weights they give."""

import pytest

from jobs.graders.formula import Formula
from jobs.graders.weights import weights_of


@pytest.mark.parametrize(
    ("source", "weights"),
    [
        ("a", {"a": 1}),
        ("0.9 * a + 0.1 * b", {"a": 0.9, "b": 0.1}),
        ("a - b + 3", {"a": 1, "b": -1}),
        ("-(a + 2 * b) / 4", {"a": -0.25, "b": -0.5}),
        ("(a + b) * 2 * 3 + a", {"a": 7, "b": 6}),
        ("a - a + b", {"b": 1}),
        ("2", {}),
    ],
)
def test_weighted_sums(source: str, weights: dict[str, float]) -> None:
    assert weights_of(Formula(source)) == pytest.approx(weights)


@pytest.mark.parametrize("source", ["a * b", "1 / a", "a ^ 2", "min(a, b)", "a / 0", "a + a * a"])
def test_what_is_no_weighted_sum(source: str) -> None:
    assert weights_of(Formula(source)) is None
