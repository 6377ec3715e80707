"""Corrections for drawing with one engine and training with another, which rounds otherwise.

    token:     w_it = pi_old(o_it) / pi_sampler(o_it)
    sequence:  w_i  = pi_old(o_i) / pi_sampler(o_i)
    truncate:  min(max(w, low), high)                  TIS, https://fengyao.notion.site/off-policy-rl
    mask:      w where low <= w <= high, else 0        MIS, https://richardli.xyz/rl-collapse

The weights are constants: no gradient flows through them.
"""

import torch
from torch import Tensor

from worker.grpo.config import SamplerCorrection
from worker.grpo.ratio import MAX_LOG_RATIO


@torch.no_grad()
def sampler_weights(
    old_logprobs_BT: Tensor,
    sampler_logprobs_BT: Tensor,
    loss_mask_BT: Tensor,
    *,
    correction: SamplerCorrection,
    low: float,
    high: float,
) -> Tensor:
    """Return what each token's loss is multiplied with: [B, T], or [B, 1] a sequence.

    `correction` is any but "none".
    """
    level, _, action = correction.partition("_")
    sampler_logprobs_BT = sampler_logprobs_BT.to(old_logprobs_BT.dtype)
    log_ratio_BT = (old_logprobs_BT - sampler_logprobs_BT).masked_fill(~loss_mask_BT, 0.0)
    if level == "sequence":
        log_ratio_BT = log_ratio_BT.sum(dim=1, keepdim=True)
    weights = log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    if action == "truncate":
        return weights.clamp(low, high)
    return weights.masked_fill((weights < low) | (weights > high), 0.0)
