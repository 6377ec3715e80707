"""The objective, put together: a policy loss, corrected, with a KL and an entropy term.

    loss = sum_i w_i sum_t m_it (c_it l_it + beta KL_it)  -  c_H mean(entropy)

    w_i   a weight that holds the loss type's denominator          denominators.py
    m_it  the loss mask
    c_it  the correction for another engine's sampling, or 1       sampler_correction.py
    l_it  the policy loss, by the importance ratio                 clipped.py, cispo.py, sapo.py
    KL_it the divergence from the base, times the ratio if asked   kl.py, ratio.py

As in TRL the KL term is not corrected for the sampler. The mean of the entropy is over the trained
tokens of the step.
"""

from collections.abc import Callable

from torch import Tensor

from worker.grpo.cispo import cispo_hits, cispo_loss
from worker.grpo.clipped import clipped_hits, clipped_loss
from worker.grpo.config import GrpoConfig
from worker.grpo.kl import kl_divergence
from worker.grpo.ratio import importance_ratio
from worker.grpo.sampler_correction import sampler_weights
from worker.grpo.sapo import sapo_loss


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
    token_sum = _sum_over(loss_mask_BT)
    ratio = importance_ratio(logprobs_BT, old_logprobs_BT, loss_mask_BT, config.importance_level)
    advantages_B1 = advantages_B.to(logprobs_BT.dtype)[:, None]
    loss_BT, hits = policy_loss(ratio, advantages_B1, logprobs_BT, config)
    stats = {"num_tokens": loss_mask_BT.sum(), "entropy": token_sum(entropy_BT.detach())}
    stats |= {name: token_sum(hit) for name, hit in hits.items()}

    if config.sampler_correction != "none":
        corrections = sampler_weights(
            old_logprobs_BT,
            sampler_logprobs_BT,
            loss_mask_BT,
            correction=config.sampler_correction,
            low=config.sampler_ratio_min,
            high=config.sampler_ratio_max,
        )
        loss_BT = loss_BT * corrections
        stats["sampler_ratio"] = token_sum(corrections)

    if ref_logprobs_BT is not None:
        kl_BT = kl_divergence(logprobs_BT, ref_logprobs_BT, config.kl_estimator)
        if config.kl_ratio_correction:
            kl_BT = kl_BT * ratio
        loss_BT = loss_BT + config.kl_coef * kl_BT
        stats["kl"] = token_sum(kl_BT.detach())

    weights_B1 = weights_B.to(logprobs_BT.dtype)[:, None]
    loss = token_sum((loss_BT * weights_B1).expand_as(logprobs_BT))
    if config.entropy_coef:
        loss = loss - config.entropy_coef * token_sum(entropy_BT) / max(num_step_tokens, 1)
    return loss, stats


def policy_loss(
    ratio: Tensor, advantages_B1: Tensor, logprobs_BT: Tensor, config: GrpoConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return each token's policy loss, and where the loss type's bound held the ratio.

    SAPO has no bound, and no such places.
    """
    if config.loss_type == "sapo":
        tau_pos, tau_neg = config.sapo_temperature_pos, config.sapo_temperature_neg
        return sapo_loss(ratio, advantages_B1, tau_pos=tau_pos, tau_neg=tau_neg), {}
    if config.loss_type == "cispo":
        max_ratio = config.cispo_max_ratio
        loss_BT = cispo_loss(ratio, advantages_B1, logprobs_BT, max_ratio=max_ratio)
        return loss_BT, cispo_hits(ratio, advantages_B1, max_ratio=max_ratio)
    eps_low, eps_high = config.clip_eps_low, config.clip_eps_high
    loss_BT = clipped_loss(
        ratio, advantages_B1, eps_low=eps_low, eps_high=eps_high, delta=config.delta
    )
    return loss_BT, clipped_hits(ratio, advantages_B1, eps_low=eps_low, eps_high=eps_high)


def _sum_over(loss_mask_BT: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda values: values.expand_as(loss_mask_BT).masked_fill(~loss_mask_BT, 0).sum()
