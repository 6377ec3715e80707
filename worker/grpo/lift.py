"""How much better than before the first update: held-out numbers now against then, row by row.

Pairs tell more than two means: rows differ from each other far more than a row from itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95

# A bootstrap knows no more than its rows. A single one that gained is every resample, and its
# interval a point; of 7 that are alike by chance (1 in 2^6 where each is a coin) it says no more.
MIN_PAIRS = 8

MAX_DRAWS = 1_000_000  # Held at a time: 16 MB, however many rows are held out.


@dataclass(frozen=True, slots=True)
class Lift:
    """The mean difference and the interval in which it lies with 95 % confidence."""

    mean: float
    low: float | None
    """None, as is `high`, of fewer than `MIN_PAIRS` rows: there is then no interval to speak of."""
    high: float | None


def paired_lift(
    before: Sequence[float | None], after: Sequence[float | None], *, seed: int = 0
) -> Lift | None:
    """Return the lift over the rows that have a number both times; None when no row has.

    The interval is a bootstrap over rows: Efron & Tibshirani, An Introduction to the Bootstrap
    (1993), section 13.3 (percentiles).
    """
    pairs = zip(before, after, strict=True)
    differences = [new - old for old, new in pairs if old is not None and new is not None]
    if not differences:
        return None
    differences_N = torch.tensor(differences, dtype=torch.float64)
    mean = float(differences_N.mean())
    if len(differences) < MIN_PAIRS:
        return Lift(mean, None, None)
    means = _resampled_means(differences_N, seed)
    tail = (1 - CONFIDENCE) / 2
    low, high = means.quantile(means.new_tensor([tail, 1 - tail])).tolist()
    return Lift(mean, low, high)


def _resampled_means(values_N: Tensor, seed: int) -> Tensor:
    """Return [NUM_RESAMPLES] means of as many values drawn with replacement, a part at a time."""
    generator = torch.Generator().manual_seed(seed)
    num_values = len(values_N)
    part = max(1, MAX_DRAWS // num_values)
    means = []
    for start in range(0, NUM_RESAMPLES, part):
        shape = (min(part, NUM_RESAMPLES - start), num_values)
        chosen = torch.randint(num_values, shape, generator=generator)
        means.append(values_N[chosen].mean(dim=1))
    return torch.cat(means)
