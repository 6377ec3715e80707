"""Whether a job is said to have improved."""

from dataclasses import asdict

import pytest

from worker.grpo.lift import paired_lift
from worker.verdict import verdict

ZEROS, ONES, HALF = [0.0] * 40, [1.0] * 40, [0.0, 1.0] * 20


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (ZEROS, ONES, "improved"),
        (ONES, ZEROS, "worse"),
        (HALF, HALF, "no_change"),
        (HALF, HALF[::-1], "no_change"),
        (ZEROS[:8], ONES[:8], "improved"),
        (ZEROS[:7], ONES[:7], "unknown"),
        (ONES[:1], ZEROS[:1], "unknown"),
        # Grades that failed are no pairs.
        ([*ZEROS[:7], None], ONES[:8], "unknown"),
    ],
)
def test_clear_gain_clear_loss_neither_and_too_few_to_tell(
    before: list[float | None], after: list[float | None], word: str
) -> None:
    lift = paired_lift(before, after)
    assert lift is not None
    assert verdict(asdict(lift)) == word


def test_without_scores_nothing_is_claimed() -> None:
    assert verdict(None) == "unknown"
