"""How far the policy is from the base model, estimated from the sampled tokens.

With r = pi_ref(o_t) / pi(o_t), Schulman's estimators of KL(pi || pi_ref)
(http://joschu.net/blog/kl-approx.html):

    k1 = -log r               unbiased, of either sign
    k2 = (log r)^2 / 2        biased, never negative; its gradient is that of KL(pi || pi_ref)
    k3 = r - log r - 1        unbiased, never negative; in GRPO, arXiv 2402.03300, eq. 4

An estimate times the importance ratio is unbiased for the policy now, and then k3's gradient is
that of the KL as well (DeepSeek-V3.2, arXiv 2512.02556, section 3.1; arXiv 2512.21852).
"""

from torch import Tensor

from worker.grpo.config import KlEstimator
from worker.grpo.ratio import MAX_LOG_RATIO


def kl_divergence(logprobs_BT: Tensor, ref_logprobs_BT: Tensor, estimator: KlEstimator) -> Tensor:
    """Return [B, T] each token's estimate, in nats."""
    delta_BT = ref_logprobs_BT - logprobs_BT
    if estimator == "k1":
        return -delta_BT
    if estimator == "k2":
        return delta_BT.square() / 2
    return delta_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() - delta_BT - 1
