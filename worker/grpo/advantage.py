"""How much better than its siblings a rollout was: the constant that weighs its log-probs.

    A_i = (r_i - mean(r)) / (std(r) + eps)          mean and std over the group of one prompt

DeepSeekMath, section 4.1.2, https://arxiv.org/abs/2402.03300. Without the division it is Dr. GRPO,
https://arxiv.org/abs/2503.20783. Nothing here has a gradient: a reward is a number, whatever
computed it, and the policy is moved by its log-probs alone.
"""

import torch
from torch import Tensor

from worker.grpo.config import AdvantageScale

EPS = 1e-4  # TRL's. A smaller one turns noise between near-equal rewards into full advantages.


def has_signal(rewards_PG: Tensor) -> Tensor:
    """Return [P] True where a group's rewards differ, so that it can teach anything.

    Exact comparison: a standard deviation close to zero is rounding noise in a constant group
    and signal in another. Rewards that are not finite (a failed grader) are left out.
    """
    known = rewards_PG.isfinite()
    highest = rewards_PG.masked_fill(~known, -torch.inf).amax(dim=1)
    lowest = rewards_PG.masked_fill(~known, torch.inf).amin(dim=1)
    return highest > lowest


def advantages(rewards_PG: Tensor, scale: AdvantageScale) -> Tensor:
    """Return [P, G] float64 advantages; exactly 0 in groups without signal.

    A reward that is not finite is kept out of its group's baseline and gets advantage 0.
    `scale` divides by the standard deviation of the group, of the whole batch, or not at all.
    """
    rewards_PG = rewards_PG.double()
    known = rewards_PG.isfinite()
    centred = rewards_PG - _mean(rewards_PG, known)
    if scale == "group":
        centred = centred / (_std(rewards_PG, known) + EPS)
    elif scale == "batch":
        centred = centred / (_std(rewards_PG.reshape(1, -1), known.reshape(1, -1)) + EPS)
    return centred.masked_fill(~(known & has_signal(rewards_PG)[:, None]), 0.0)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    total = values.masked_fill(~known, 0.0).sum(dim=1, keepdim=True)
    return total / known.sum(dim=1, keepdim=True).clamp(min=1)


def _std(values: Tensor, known: Tensor) -> Tensor:
    """Standard deviation with Bessel's correction, as TRL and torch compute it."""
    squares = (values - _mean(values, known)).masked_fill(~known, 0.0).square()
    return (
        squares.sum(dim=1, keepdim=True) / (known.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    ).sqrt()


def normalized_sum(rewards_PGK: Tensor, weights_K: Tensor) -> Tensor:
    """Return [P, G] what GDPO makes one reward of: each reward normalised in its group, weighted.

        x_i = sum_k w_k (r_ik - mean(r_k)) / (std(r_k) + eps)

    https://arxiv.org/abs/2601.05242. A reward with a wide range no longer drowns the others. A
    rollout with a reward that is not finite is NaN; a reward that is constant in a group adds 0.
    """
    num_prompts, _, num_rewards = rewards_PGK.shape
    is_known_PG1 = rewards_PGK.isfinite().all(dim=2, keepdim=True)
    rewards_PGK = rewards_PGK.masked_fill(~is_known_PG1, torch.nan)
    # Groups of each reward side by side: every (prompt, reward) is a group of its own.
    rewards_NG = rewards_PGK.transpose(1, 2).flatten(0, 1)
    normalized_NG = advantages(rewards_NG, "group")
    normalized_PGK = normalized_NG.unflatten(0, (num_prompts, num_rewards)).transpose(1, 2)
    total_PG = (normalized_PGK * weights_K.double()).sum(dim=2)
    return total_PG.masked_fill(~is_known_PG1.squeeze(2), torch.nan)


def gdpo_advantages(rewards_PGK: Tensor, weights_K: Tensor) -> Tensor:
    """Return [P, G] float64 advantages of K rewards: their normalised sum over the batch's spread.

    Exactly 0 in groups where no weighted reward differs, and where a reward is not finite.
    """
    sums_PG = normalized_sum(rewards_PGK, weights_K)
    known = sums_PG.isfinite()
    row, known_row = sums_PG.reshape(1, -1), known.reshape(1, -1)
    scaled = (sums_PG - _mean(row, known_row)) / (_std(row, known_row) + EPS)
    return scaled.masked_fill(~(known & has_signal(sums_PG)[:, None]), 0.0)
