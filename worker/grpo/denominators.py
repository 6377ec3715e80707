"""What a token weighs in the loss: the variants of GRPO differ in what they divide by.

    grpo, sapo         1 / (B |o_i|)        mean over rollouts of the mean over their tokens
    bnpo, dapo, cispo  1 / sum_j |o_j|      mean over tokens
    dr_grpo            1 / (B T_max)        a constant: no bias by length

    GRPO   arXiv 2402.03300, eq. 3     DAPO      arXiv 2503.14476, section 3.3
    SAPO   arXiv 2511.20347            Dr. GRPO  arXiv 2503.20783
    CISPO  arXiv 2506.13585

B and the sums are the whole step's, so that its gradient is the sum of its micro-batches'
gradients, however it is split. bnpo, which elsewhere divides by a micro-batch's own tokens, is
therefore the same as dapo.
"""

import torch
from torch import Tensor

from worker.grpo.config import LossType


def rollout_weights(
    num_tokens_B: Tensor, loss_type: LossType, *, max_completion_tokens: int
) -> Tensor:
    """Return [B] what a trained token of each rollout weighs in the loss.

    `num_tokens_B` counts the trained tokens of every rollout of the step, those without signal
    included: leaving them out of the computation must not make the others weigh more.
    """
    num_tokens_B = num_tokens_B.double()
    num_rollouts = len(num_tokens_B)
    if loss_type in ("grpo", "sapo"):
        return 1 / (num_rollouts * num_tokens_B.clamp(min=1))
    if loss_type == "dr_grpo":
        return torch.full_like(num_tokens_B, 1 / (num_rollouts * max_completion_tokens))
    return torch.full_like(num_tokens_B, 1 / float(num_tokens_B.sum().clamp(min=1)))
