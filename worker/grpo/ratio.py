"""How much likelier the policy makes what was sampled than before the update.

    token:     rho_it = pi(o_it) / pi_old(o_it)                      GRPO, arXiv 2402.03300, eq. 3
    sequence:  rho_i  = (pi(o_i) / pi_old(o_i)) ** (1 / |o_i|)       GSPO, arXiv 2507.18071, eq. 7

|o_i| counts trained tokens, so that GSPO's ratio is the geometric mean of the tokens' ratios.
"""

from torch import Tensor

from worker.grpo.config import ImportanceLevel

MAX_LOG_RATIO = 20.0  # exp(20) is 5e8: past it a ratio says nothing and would overflow in time.


def importance_ratio(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, loss_mask_BT: Tensor, level: ImportanceLevel
) -> Tensor:
    """Return the ratio of the policy to the one before the update: [B, T], or [B, 1] a sequence.

    It is 1 where the mask is False.
    """
    log_ratio_BT = (logprobs_BT - old_logprobs_BT).masked_fill(~loss_mask_BT, 0.0)
    if level == "sequence":
        lengths_B1 = loss_mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        log_ratio_BT = log_ratio_BT.sum(dim=1, keepdim=True) / lengths_B1
    return log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
