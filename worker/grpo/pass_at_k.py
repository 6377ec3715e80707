"""How often at least one of several answers passes.

    pass@k = 1 - C(n - c, k) / C(n, k)          of n answers drawn, c pass

the unbiased estimate of Chen et al., https://arxiv.org/abs/2107.03374, equation 1.
"""

from collections.abc import Sequence
from math import comb


def pass_at_k(rewards: Sequence[float | None], *, k: int, threshold: float) -> float | None:
    """Return pass@k of one prompt's answers; an answer passes with a reward of `threshold`.

    None when a grader failed on one of them: leaving it out would count a pass as a miss.
    """
    if len(rewards) < k:
        raise ValueError(f"pass@{k} needs {k} answers, and there are {len(rewards)}")
    known = [reward for reward in rewards if reward is not None]
    if len(known) < len(rewards):
        return None
    num_passed = sum(reward >= threshold for reward in known)
    return 1 - comb(len(known) - num_passed, k) / comb(len(known), k)
