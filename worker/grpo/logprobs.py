"""Log-probs of chosen tokens from hidden states, never holding the logits of a whole batch.

The head is applied to the completion tokens alone, a chunk at a time, and its softmax is taken
in fp32 whatever the model's dtype: bf16 log-probs are noise at the size of a policy ratio
(MiniMax-M1, https://arxiv.org/abs/2506.13585, section 3.2).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

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
    is_head_trained: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return [N] log-probs of `ids_N` and [N] entropies, both at `temperature` and in fp32.

    No chunk's logits outlive it: what the backward pass needs of them is made while they are
    there, or, where the head itself is trained, they are computed again. The entropies have a
    gradient only when `is_entropy_trained`.
    """

    def score(hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return score_logits(
            head(hidden), ids, temperature=temperature, is_entropy_trained=is_entropy_trained
        )

    rows = max(1, CHUNK_LOGITS // vocab_size)
    if torch.is_grad_enabled() and not is_head_trained:
        return _SlopedScores.apply(hidden_NH, ids_N, score, rows)
    scored = partial(checkpoint, score, use_reentrant=False) if is_head_trained else score
    chunks = zip(hidden_NH.split(rows), ids_N.split(rows), strict=True)
    logprobs, entropies = zip(*(scored(*chunk) for chunk in chunks), strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


class _SlopedScores(torch.autograd.Function):
    """Log-probs and entropies with their slopes in the hidden states, for a head that is frozen.

    Each is a function of its own row of the hidden states alone, so its derivatives are one more
    row, and the backward pass is that row times the incoming gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        ids_N: Tensor,
        score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        rows: int,
    ) -> tuple[Tensor, ...]:
        values: list[list[Tensor]] = [[], []]
        slopes: list[list[Tensor]] = [[], []]
        for hidden, ids in zip(hidden_NH.split(rows), ids_N.split(rows), strict=True):
            with torch.enable_grad():
                states = hidden.detach().requires_grad_()
                scores = score(states, ids)
            for i, one in enumerate(scores):
                values[i].append(one.detach())
                if one.requires_grad:
                    slopes[i] += torch.autograd.grad(
                        one, states, torch.ones_like(one), retain_graph=i == 0
                    )
        ctx.save_for_backward(*(torch.cat(slope) for slope in slopes if slope))
        logprobs_N, entropy_N = map(torch.cat, values)
        if not slopes[1]:
            ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads_N: Tensor) -> tuple[Tensor | None, ...]:
        slopes = ctx.saved_tensors
        terms = [g[:, None] * s for g, s in zip(grads_N, slopes, strict=False)]
        return sum(terms[1:], start=terms[0]).to(slopes[0].dtype), None, None, None


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
