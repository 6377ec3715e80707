"""Did it learn: one word from how much better the held-out rows are rewarded than before."""

from __future__ import annotations

from collections.abc import Mapping

from worker.grpo.lift import MIN_PAIRS

RANKS_ONLY = (
    "The grader ranks the answers to one prompt against each other, so that the rewards of two "
    "evaluations cannot be compared: the verdict is 'unknown'. Compare the adapter's answers with "
    "the base model's to see what it learned."
)
TOO_FEW_PAIRS = (
    f"Fewer than {MIN_PAIRS} held-out rows were scored both before and after the training, too few "
    "to tell a gain from chance: the verdict is 'unknown'. Give the job a validation file of more "
    "rows, and see that their grades do not fail."
)


def verdict(lift: Mapping[str, float | None] | None) -> str:
    """`improved`, `no_change`, `worse`, or `unknown` where too few held-out rows were scored twice.

    A change counts when the whole interval of the lift lies on one side of 0. Below `MIN_PAIRS`
    rows there is no interval.
    """
    low, high = (lift["low"], lift["high"]) if lift else (None, None)
    if low is None or high is None:
        return "unknown"
    if low > 0:
        return "improved"
    return "worse" if high < 0 else "no_change"
