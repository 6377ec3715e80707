"""CISPO: REINFORCE with a bounded, constant ratio, so that no token's gradient is dropped.

    l = -sg( min(rho, rho_max) ) A log pi             MiniMax-M1, arXiv 2506.13585

sg stops the gradient. As in the paper's own runs there is no bound from below.
"""

import torch
from torch import Tensor


def cispo_loss(
    ratio: Tensor, advantages_B1: Tensor, logprobs_BT: Tensor, *, max_ratio: float
) -> Tensor:
    """Return [B, T] each token's loss."""
    return -ratio.clamp(max=max_ratio).detach() * advantages_B1 * logprobs_BT


@torch.no_grad()
def cispo_hits(ratio: Tensor, advantages_B1: Tensor, *, max_ratio: float) -> dict[str, Tensor]:
    """Return where the bound held the ratio of a token that was to become likelier."""
    return {"clip_high": (ratio > max_ratio) & (advantages_B1 > 0)}
