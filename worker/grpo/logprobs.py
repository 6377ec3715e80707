"""Log-probs of chosen tokens from hidden states, never holding the logits of a whole batch.

The head is applied to the completion tokens alone, a chunk at a time, and its softmax is taken
in fp32 whatever the model's dtype: bf16 log-probs are noise at the size of a policy ratio
(MiniMax-M1, https://arxiv.org/abs/2506.13585, section 3.2).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 1 << 24  # Logits in memory at a time: 64 MiB in fp32.

Head = Callable[[Tensor], Tensor]
"""[N, H] hidden states to [N, V] logits."""


def token_logprobs(
    hidden_NH: Tensor,
    ids_N: Tensor,
    head: Head,
    *,
    vocab_size: int,
    temperature: float,
    is_entropy_trained: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return [N] log-probs of `ids_N` and [N] entropies, both at `temperature` and in fp32.

    When more than one chunk is needed, a chunk's logits are computed again in the backward pass
    instead of being kept. The entropies have a gradient only when `is_entropy_trained`.
    """

    def score(hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return score_logits(
            head(hidden), ids, temperature=temperature, is_entropy_trained=is_entropy_trained
        )

    rows = max(1, CHUNK_LOGITS // vocab_size)
    if len(ids_N) <= rows:
        return score(hidden_NH, ids_N)
    scored = [
        checkpoint(score, hidden, ids, use_reentrant=False)
        if torch.is_grad_enabled()
        else score(hidden, ids)
        for hidden, ids in zip(hidden_NH.split(rows), ids_N.split(rows), strict=True)
    ]
    logprobs, entropies = zip(*scored, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def score_logits(
    logits_NV: Tensor, ids_N: Tensor, *, temperature: float, is_entropy_trained: bool = False
) -> tuple[Tensor, Tensor]:
    """Return [N] log-probs of the ids and [N] entropies of the distributions."""
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) / temperature
    all_logprobs_NV = logits_NV.log_softmax(dim=-1)
    logprobs_N = all_logprobs_NV.gather(1, ids_N[:, None]).squeeze(1)
    with torch.set_grad_enabled(is_entropy_trained and torch.is_grad_enabled()):
        # The bound keeps p log p at 0 where p is 0, instead of 0 times infinity.
        surprise_NV = -all_logprobs_NV.clamp(min=-1e4)
        entropy_N = (all_logprobs_NV.exp() * surprise_NV).sum(dim=-1)
    return logprobs_N, entropy_N
