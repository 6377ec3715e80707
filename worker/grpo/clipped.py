"""The clipped surrogate: what GRPO, its length-corrected variants and GSPO weigh a token with.

    l = -min( min(rho, delta) A,  clip(rho, 1 - eps_low, 1 + eps_high) A )

    clip          PPO, arXiv 1707.06347, eq. 7; in GRPO, arXiv 2402.03300, eq. 3
    two epsilons  DAPO (clip-higher), arXiv 2503.14476, section 3.1
    delta         INTELLECT-2 (two-sided clip), arXiv 2505.07291

Without delta a growing ratio, and with it the loss, is unbounded where A < 0: there the clip's
minimum is the unclipped term.
"""

import torch
from torch import Tensor


def clipped_loss(
    ratio: Tensor, advantages_B1: Tensor, *, eps_low: float, eps_high: float, delta: float | None
) -> Tensor:
    """Return each token's loss, of the ratio's shape: [B, T], or [B, 1] a sequence."""
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    clipped = ratio.clamp(1 - eps_low, 1 + eps_high)
    return -torch.min(bounded * advantages_B1, clipped * advantages_B1)


@torch.no_grad()
def clipped_hits(
    ratio: Tensor, advantages_B1: Tensor, *, eps_low: float, eps_high: float
) -> dict[str, Tensor]:
    """Return where the clip stopped the gradient, by the side on which the ratio left."""
    low = (ratio < 1 - eps_low) & (advantages_B1 < 0)
    high = (ratio > 1 + eps_high) & (advantages_B1 > 0)
    return {"clip_low": low, "clip_high": high, "clip_region": low | high}
