"""From a micro-batch to the log-prob of each of its completion tokens.

The hidden state at a position predicts the next token, so the states that matter are that of the
prompt's last token and those of all completion tokens but the last.
"""

from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache

from worker.grpo.attention import row_states
from worker.grpo.batch import Layout, MicroBatch
from worker.grpo.logprobs import token_logprobs
from worker.grpo.policy import Policy


def score(
    policy: Policy, batch: MicroBatch, temperature: float, *, is_entropy_trained: bool = False
) -> tuple[Tensor, Tensor]:
    """Return [B, T] log-probs of the completion tokens and [B, T] entropies, 0 on the padding."""
    mask_BT = batch.completion_mask_BT
    logprobs_N, entropy_N = token_logprobs(
        predicting_states(policy, batch),
        batch.completion_ids_BT[mask_BT],
        policy.head,
        vocab_size=policy.vocab_size,
        temperature=temperature,
        is_entropy_trained=is_entropy_trained,
        is_head_trained=policy.is_head_trained,
    )
    blank_BT = logprobs_N.new_zeros(mask_BT.shape)
    return blank_BT.masked_scatter(mask_BT, logprobs_N), blank_BT.masked_scatter(mask_BT, entropy_N)


def predicting_states(policy: Policy, batch: MicroBatch) -> Tensor:
    """Return [N, H] states that predict the completions' tokens, one rollout after the other."""
    if batch.row is not None:
        return row_states(policy.decoder, batch.row).index_select(0, batch.row.states_N)
    hidden_BTH = (shared if batch.layout is Layout.SHARED else whole)(policy, batch)
    return hidden_BTH[batch.completion_mask_BT]


def shared(policy: Policy, batch: MicroBatch) -> Tensor:
    """Return [B, T, H] states that predict the completions, each prompt computed once.

    The prompts' keys and values are spread over their rollouts; the gradient sums back.
    """
    mask_PL = batch.prompt_mask_PL
    cache = DynamicCache()
    prompt_PLH = policy.decoder(
        input_ids=batch.prompt_ids_PL,
        attention_mask=mask_PL,
        position_ids=positions(mask_PL),
        use_cache=True,
        **{policy.cache_argument: cache},
    ).last_hidden_state
    rows = batch.prompt_row_B
    first_B1H = prompt_PLH[rows, -1:]
    inputs_BT = batch.completion_ids_BT[:, :-1]
    if not inputs_BT.shape[1]:
        return first_B1H
    cache.reorder_cache(cast(torch.LongTensor, rows))
    mask_BL = torch.cat([mask_PL[rows], batch.completion_mask_BT[:, :-1]], dim=1)
    rest_BTH = policy.decoder(
        input_ids=inputs_BT,
        attention_mask=mask_BL,
        position_ids=positions(mask_BL)[:, -inputs_BT.shape[1] :],
        use_cache=True,
        **{policy.cache_argument: cache},
    ).last_hidden_state
    return torch.cat([first_B1H, rest_BTH], dim=1)


def whole(policy: Policy, batch: MicroBatch) -> Tensor:
    """Return the same states as `shared`, computing each rollout's prompt with it.

    For models whose layers carry more than keys and values from one token to the next.
    """
    rows = batch.prompt_row_B
    ids_BL = torch.cat([batch.prompt_ids_PL[rows], batch.completion_ids_BT[:, :-1]], dim=1)
    mask_BL = torch.cat([batch.prompt_mask_PL[rows], batch.completion_mask_BT[:, :-1]], dim=1)
    hidden_BLH = policy.decoder(
        input_ids=ids_BL,
        attention_mask=mask_BL,
        position_ids=positions(mask_BL),
        use_cache=False,
    ).last_hidden_state
    return hidden_BLH[:, batch.prompt_ids_PL.shape[1] - 1 :]


def positions(mask_BL: Tensor) -> Tensor:
    """Return each token's position in its own sequence; padding gets any valid one."""
    return (mask_BL.long().cumsum(dim=1) - 1).clamp(min=0)
