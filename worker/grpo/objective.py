"""The clipped policy objective in its published variants, and how tokens add up to a loss.

    loss = sum_i w_i sum_t m_it (l_it + beta KL_it)  -  c_H mean(entropy)

l_it is the per-token policy loss, m_it the loss mask, w_i a weight per rollout that holds the
loss type's denominator. The denominators are of the whole step, so a step's gradient is the sum
of its micro-batches' gradients, however it is split.

    GRPO     https://arxiv.org/abs/2402.03300   eq. 3     DAPO   https://arxiv.org/abs/2503.14476
    Dr. GRPO https://arxiv.org/abs/2503.20783             GSPO   https://arxiv.org/abs/2507.18071
    CISPO    https://arxiv.org/abs/2506.13585             SAPO   https://arxiv.org/abs/2511.20347
    delta    https://arxiv.org/abs/2505.07291   (two-sided clip)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from worker.grpo.config import GrpoConfig, ImportanceLevel, KlEstimator, LossType

MAX_LOG_RATIO = 20.0  # exp(20) is 5e8: past it a ratio says nothing and would overflow in time.


def rollout_weights(
    num_tokens_B: Tensor, loss_type: LossType, *, max_completion_tokens: int
) -> Tensor:
    """Return [B] what a trained token of each rollout weighs in the loss.

    `num_tokens_B` counts the trained tokens of every rollout of the step, those without signal
    included: leaving them out of the computation must not make the others weigh more.

        grpo, sapo         1 / (B |o_i|)        mean over rollouts of the mean over tokens
        bnpo, dapo, cispo  1 / sum_j |o_j|      mean over tokens
        dr_grpo            1 / (B T_max)        a constant, no bias by length
    """
    num_tokens_B = num_tokens_B.double()
    num_rollouts = len(num_tokens_B)
    if loss_type in ("grpo", "sapo"):
        return 1 / (num_rollouts * num_tokens_B.clamp(min=1))
    if loss_type == "dr_grpo":
        return torch.full_like(num_tokens_B, 1 / (num_rollouts * max_completion_tokens))
    return torch.full_like(num_tokens_B, 1 / float(num_tokens_B.sum().clamp(min=1)))


def importance_ratio(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, loss_mask_BT: Tensor, level: ImportanceLevel
) -> Tensor:
    """Return the ratio of the policy to the one before the update: [B, T], or [B, 1] a sequence.

    token:     rho_it = pi(o_it) / pi_old(o_it)
    sequence:  rho_i  = (pi(o_i) / pi_old(o_i)) ** (1 / |o_i|)      (GSPO)
    """
    log_ratio_BT = (logprobs_BT - old_logprobs_BT).masked_fill(~loss_mask_BT, 0.0)
    if level == "sequence":
        lengths_B1 = loss_mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        log_ratio_BT = log_ratio_BT.sum(dim=1, keepdim=True) / lengths_B1
    return log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


@torch.no_grad()
def sampler_weights(
    old_logprobs_BT: Tensor,
    sampler_logprobs_BT: Tensor,
    loss_mask_BT: Tensor,
    config: GrpoConfig,
) -> Tensor:
    """Return [B, T] or [B, 1] corrections for drawing with one engine and training with another.

    w = pi_old / pi_sampler a token, or its product over the sequence; cut to the bounds (TIS) or
    zeroed outside of them (MIS), https://fengyao.notion.site/off-policy-rl.
    """
    level, _, action = config.sampler_correction.partition("_")
    log_ratio_BT = (old_logprobs_BT - sampler_logprobs_BT).masked_fill(~loss_mask_BT, 0.0)
    if level == "sequence":
        log_ratio_BT = log_ratio_BT.sum(dim=1, keepdim=True)
    weights = log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    low, high = config.sampler_ratio_min, config.sampler_ratio_max
    if action == "truncate":
        return weights.clamp(low, high)
    return weights.masked_fill((weights < low) | (weights > high), 0.0)


def clipped_loss(ratio: Tensor, advantages_B1: Tensor, config: GrpoConfig) -> Tensor:
    """-min(min(rho, delta) A, clip(rho, 1 - eps_low, 1 + eps_high) A)."""
    bounded = ratio if config.delta is None else ratio.clamp(max=config.delta)
    clipped = ratio.clamp(1 - config.clip_eps_low, 1 + config.clip_eps_high)
    return -torch.min(bounded * advantages_B1, clipped * advantages_B1)


def cispo_loss(
    ratio: Tensor, advantages_B1: Tensor, logprobs_BT: Tensor, config: GrpoConfig
) -> Tensor:
    """-sg(min(rho, rho_max)) A log pi: no token's gradient is ever dropped."""
    return -ratio.clamp(max=config.cispo_max_ratio).detach() * advantages_B1 * logprobs_BT


def sapo_loss(ratio: Tensor, advantages_B1: Tensor, config: GrpoConfig) -> Tensor:
    """-(4 / tau) sigmoid(tau (rho - 1)) A: a soft gate in the clip's place."""
    tau = torch.full_like(advantages_B1, config.sapo_temperature_neg)
    tau = tau.masked_fill(advantages_B1 > 0, config.sapo_temperature_pos)
    return -torch.sigmoid(tau * (ratio - 1)) * (4 / tau) * advantages_B1


def kl_divergence(logprobs_BT: Tensor, ref_logprobs_BT: Tensor, estimator: KlEstimator) -> Tensor:
    """Return [B, T] Schulman's estimates of KL(pi || pi_ref), http://joschu.net/blog/kl-approx.html.

    k1 = log(pi / ref),  k2 = log(pi / ref)^2 / 2,  k3 = ref / pi - log(ref / pi) - 1
    """
    delta_BT = ref_logprobs_BT - logprobs_BT
    if estimator == "k1":
        return -delta_BT
    if estimator == "k2":
        return delta_BT.square() / 2
    return delta_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() - delta_BT - 1


def objective(
    *,
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    ref_logprobs_BT: Tensor | None,
    sampler_logprobs_BT: Tensor,
    entropy_BT: Tensor,
    advantages_B: Tensor,
    loss_mask_BT: Tensor,
    weights_B: Tensor,
    num_step_tokens: int,
    config: GrpoConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return one micro-batch's share of the step's loss, and sums over its trained tokens.

    `weights_B` comes from `rollout_weights` over the whole step, `num_step_tokens` is the trained
    tokens of the whole step. `ref_logprobs_BT` is needed when `kl_coef` is above 0.
    """
    advantages_B1 = advantages_B.to(logprobs_BT.dtype)[:, None]
    ratio = importance_ratio(logprobs_BT, old_logprobs_BT, loss_mask_BT, config.importance_level)
    if config.loss_type == "cispo":
        loss_BT = cispo_loss(ratio, advantages_B1, logprobs_BT, config)
    elif config.loss_type == "sapo":
        loss_BT = sapo_loss(ratio, advantages_B1, config)
    else:
        loss_BT = clipped_loss(ratio, advantages_B1, config)

    token_sum = _sum_over(loss_mask_BT)
    stats = {"num_tokens": loss_mask_BT.sum(), "entropy": token_sum(entropy_BT.detach())}
    stats |= {name: token_sum(hit) for name, hit in clip_hits(ratio, advantages_B1, config).items()}

    if config.sampler_correction != "none":
        corrections = sampler_weights(old_logprobs_BT, sampler_logprobs_BT, loss_mask_BT, config)
        loss_BT = loss_BT * corrections
        stats["sampler_ratio"] = token_sum(corrections)

    if ref_logprobs_BT is not None:
        kl_BT = kl_divergence(logprobs_BT, ref_logprobs_BT, config.kl_estimator)
        if config.kl_ratio_correction:
            # The gradient of k3 alone is not that of the reverse KL (2512.02556, section 3.1).
            kl_BT = kl_BT * ratio
        loss_BT = loss_BT + config.kl_coef * kl_BT
        stats["kl"] = token_sum(kl_BT.detach())

    weights_B1 = weights_B.to(logprobs_BT.dtype)[:, None]
    loss = (loss_BT * weights_B1).expand_as(logprobs_BT).masked_fill(~loss_mask_BT, 0.0).sum()
    if config.entropy_coef:
        loss = loss - config.entropy_coef * token_sum(entropy_BT) / max(num_step_tokens, 1)
    return loss, stats


@torch.no_grad()
def clip_hits(ratio: Tensor, advantages_B1: Tensor, config: GrpoConfig) -> dict[str, Tensor]:
    """Return where the clip bound the ratio, by the side it bound; SAPO has no clip."""
    if config.loss_type == "sapo":
        return {}
    if config.loss_type == "cispo":
        return {"clip_high": (ratio > config.cispo_max_ratio) & (advantages_B1 > 0)}
    low = (ratio < 1 - config.clip_eps_low) & (advantages_B1 < 0)
    high = (ratio > 1 + config.clip_eps_high) & (advantages_B1 > 0)
    return {"clip_low": low, "clip_high": high, "clip_region": low | high}


def _sum_over(loss_mask_BT: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda values: values.expand_as(loss_mask_BT).masked_fill(~loss_mask_BT, 0).sum()
