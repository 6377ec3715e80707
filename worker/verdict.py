"""Did it learn: the held-out rewards after the job against those before it, row by row."""

from __future__ import annotations

import random
from collections.abc import Sequence

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


def paired_interval(
    before: Sequence[float | None], after: Sequence[float | None], *, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of the mean difference over rows scored both times.

    Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 13.3 (percentiles).
    None when no row was scored both times.
    """
    pairs = zip(before, after, strict=True)
    differences = [new - old for old, new in pairs if old is not None and new is not None]
    if not differences:
        return None
    draw = random.Random(seed)
    count = len(differences)
    means = sorted(sum(draw.choices(differences, k=count)) / count for _ in range(NUM_RESAMPLES))
    tail = (1 - CONFIDENCE) / 2
    return means[int(tail * NUM_RESAMPLES)], means[int((1 - tail) * NUM_RESAMPLES) - 1]


def verdict(before: Sequence[float | None] | None, after: Sequence[float | None] | None) -> str:
    """`improved`, `no_change`, `worse`, or `unknown` where no held-out rows were scored."""
    interval = paired_interval(before, after) if before and after else None
    if interval is None:
        return "unknown"
    low, high = interval
    if low > 0:
        return "improved"
    return "worse" if high < 0 else "no_change"
