"""SAPO: a soft gate around ratio 1 in the clip's place, steeper where the advantage is negative.

    l = -(4 / tau) sigmoid(tau (rho - 1)) A           SAPO, arXiv 2511.20347

The gate's slope is 1 at rho = 1, whatever tau: there it is the plain policy gradient.
"""

import torch
from torch import Tensor


def sapo_loss(ratio: Tensor, advantages_B1: Tensor, *, tau_pos: float, tau_neg: float) -> Tensor:
    """Return each token's loss, of the ratio's shape; `tau_pos` is for advantages above 0."""
    tau = torch.full_like(advantages_B1, tau_neg)
    tau = tau.masked_fill(advantages_B1 > 0, tau_pos)
    return -torch.sigmoid(tau * (ratio - 1)) * (4 / tau) * advantages_B1
