"""From a batch's logits to one token a row, each row by the parameters of its own request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from jobs.serving import Sampling
from worker.grpo.hf_sampler import draw


def sample(
    logits_BV: Tensor, asked: Sequence[Sampling], uniforms: Sequence[float]
) -> tuple[list[int], Tensor | None]:
    """One id a row, and [B, V] log-probs of the model itself where any row wants them.

    A row's draw is a function of its own logits, parameters and uniform number: who else is in
    the batch changes nothing.
    """
    logits_BV = logits_BV.float()
    ids_B = logits_BV.argmax(dim=-1)
    drawn = [row for row, one in enumerate(asked) if one.temperature > 0]
    if drawn:
        temperature_B = logits_BV.new_tensor([asked[row].temperature for row in drawn])
        warm_BV = logits_BV[drawn] / temperature_B[:, None]
        nucleus_(warm_BV, [asked[row].top_p for row in drawn])
        uniforms_B = torch.tensor(
            [uniforms[row] for row in drawn], dtype=torch.float64, device=logits_BV.device
        )
        ids_B[drawn], _ = draw(warm_BV, uniforms_B, temperature=1.0)
    logprobs_BV = None
    if any(one.top_logprobs is not None for one in asked):
        logprobs_BV = logits_BV.log_softmax(dim=-1)
    return ids_B.tolist(), logprobs_BV


def nucleus_(logits_BV: Tensor, top_p: Sequence[float]) -> None:
    """Put the logits outside each row's nucleus to minus infinity, in place.

    Nucleus sampling, https://arxiv.org/abs/1904.09751: the likeliest tokens whose probabilities
    sum to top_p or more.
    """
    no_ids = torch.empty(0, dtype=torch.long)
    for share in set(top_p) - {1.0}:
        rows = [row for row, one in enumerate(top_p) if one == share]
        logits_BV[rows] = TopPLogitsWarper(share)(no_ids, logits_BV[rows])
