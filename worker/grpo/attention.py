"""Attention over one row of many sequences: no padding in the row, every prompt in it once.

A token of a completion attends to its group's prompt and to its own completion up to itself. Of
short groups that is one masked call. Else the two parts are computed apart, by kernels that also
give the logarithm of their softmax's denominator, and joined into the softmax over both:

    l = log(exp l_1 + exp l_2),    o = exp(l_1 - l) o_1 + exp(l_2 - l) o_2

Given o and l of the whole, a kernel's backward pass is exact for its part, so gradients of the
parts add up (FlashAttention-2, https://arxiv.org/abs/2307.08691, section 3.1.2).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from worker.grpo.cache import is_plain_attention
from worker.grpo.row import Part, Row, row_of

NAME = "honed_row"
"""The attention's name among transformers' implementations."""

# Relative difference of states that rounding does not reach, by the model's dtype.
ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.03}

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class RowAttention(torch.autograd.Function):
    """Queries, keys and values of a row, [N, heads, size] each, to what its tokens attend to."""

    @staticmethod
    def forward(
        ctx: Any, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, row: Row, scale: float | None
    ) -> Tensor:
        states, parts = (q_NHD, k_NHD, v_NHD), row.parts
        out_NHD, log_sums_NH = _computed(parts.own, parts.own_places, states, scale)
        if parts.prefix:
            # Views of the completions' part: they attend to their prompts too.
            own, own_log_sums = (
                out_NHD[row.num_prompt_tokens :],
                log_sums_NH[row.num_prompt_tokens :],
            )
            out, log_sums = _computed(parts.prefix, parts.query_places, states, scale)
            own.lerp_(out, torch.sigmoid(log_sums - own_log_sums).to(own.dtype)[..., None])
            torch.logaddexp(own_log_sums, log_sums, out=own_log_sums)
        ctx.save_for_backward(*states, out_NHD, log_sums_NH)
        ctx.row, ctx.scale = row, scale
        return out_NHD

    @staticmethod
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:
        row: Row = ctx.row
        own = [_gradients(part, grad_NHD, ctx) for part in row.parts.own]
        dq_NHD, dk_NHD, dv_NHD = (
            _joined(pieces).index_select(0, row.parts.own_places)
            for pieces in zip(*own, strict=True)
        )
        if row.parts.prefix:
            prefix = [_gradients(part, grad_NHD, ctx) for part in row.parts.prefix]
            dq, dk, dv = (_joined(pieces) for pieces in zip(*prefix, strict=True))
            dq_NHD[row.num_prompt_tokens :] += dq.index_select(0, row.parts.query_places)
            dk_NHD[: row.num_prompt_tokens] += dk.index_select(0, row.parts.key_places)
            dv_NHD[: row.num_prompt_tokens] += dv.index_select(0, row.parts.key_places)
        return dq_NHD, dk_NHD, dv_NHD, None, None


def _computed(
    parts: list[Part], places: Tensor, states: tuple[Tensor, ...], scale: float | None
) -> tuple[Tensor, Tensor]:
    """Return the outputs and the log-sums of the tokens at `places`."""
    q_NHD, k_NHD, v_NHD = states
    found = [
        _forward(
            part.queries.batch(q_NHD),
            part.keys.batch(k_NHD),
            part.keys.batch(v_NHD),
            is_causal=part.is_causal,
            attn_mask=_bias(part, q_NHD),
            scale=scale,
        )
        for part in parts
    ]
    out, log_sums = (_joined([_flat(b) for b in batches]) for batches in zip(*found, strict=True))
    return out.index_select(0, places), log_sums.index_select(0, places)


def _gradients(part: Part, grad_NHD: Tensor, ctx: Any) -> list[Tensor]:
    """Return the part's gradients of queries, keys and values, each as one row of its places."""
    q_NHD, k_NHD, v_NHD, out_NHD, log_sums_NH = ctx.saved_tensors
    log_sums = part.queries.batch(log_sums_NH)
    if len(part.queries.padding):
        # Of padding exp(score - infinity) = 0 is all that a kernel sees.
        _flat(log_sums).index_fill_(0, part.queries.padding, torch.inf)
    gradients = _backward(
        part.queries.batch(grad_NHD),
        part.queries.batch(q_NHD),
        part.keys.batch(k_NHD),
        part.keys.batch(v_NHD),
        part.queries.batch(out_NHD),
        log_sums,
        0.0,
        part.is_causal,
        attn_mask=_bias(part, q_NHD),
        scale=ctx.scale,
    )
    return [_flat(gradient) for gradient in gradients]


def _bias(part: Part, states: Tensor) -> Tensor | None:
    """Return what a kernel adds to scores, in the dtype that it takes beside these states."""
    return None if part.bias is None else part.bias.to(states.dtype)


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


def _flat(batch: Tensor) -> Tensor:
    """[S, heads, T, ...] as one row of places, [S * T, heads, ...]."""
    return batch.transpose(1, 2).flatten(0, 1)


_row: ContextVar[Row] = ContextVar("row")


@contextmanager
def row_attention(config: PretrainedConfig, row: Row) -> Iterator[None]:
    """Within it models of this configuration attend over a batch of one row, laid out as `row`."""
    before = config._attn_implementation
    token = _row.set(row)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _row.reset(token)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return [1, N, heads, size] from [1, heads, N, size], as transformers calls an attention."""
    states = (s[0].transpose(0, 1) for s in (query, key, value))
    return RowAttention.apply(*states, _row.get(), scaling)[None], None


AttentionInterface.register(NAME, _attend)


def row_states(decoder: nn.Module, row: Row) -> Tensor:
    """Return [N, H] states of all tokens of a row."""
    with row_attention(cast(PretrainedConfig, decoder.config), row):
        output = decoder(
            input_ids=row.ids_N[None], position_ids=row.positions_N[None], use_cache=False
        )
    return output.last_hidden_state[0]


@torch.no_grad()
def attends_over_rows(base: PreTrainedModel) -> bool:
    """Return whether this model can be given a row: it then has the states that it has without.

    Tried, not looked up: an architecture may add to its scores or mask them in ways of its own.
    """
    decoder = base.get_decoder()
    if not (
        base.device.type == "cpu"
        and decoder.config._attn_implementation == "sdpa"
        and base._supports_attention_backend
        and is_plain_attention(base.config)
    ):
        return False
    vocab_size = base.config.get_text_config().vocab_size
    prompts, completions = [[0, 1, 2], [3]], [[4, 5, 6], [7, 8], [9, 10, 11, 12]]
    prompts, completions = (
        [[i % vocab_size for i in ids] for ids in rows] for rows in (prompts, completions)
    )
    prompt_rows = [0, 0, 1]
    row = row_of(prompts, completions, prompt_rows, base.device)
    found = row_states(decoder, row)[row.states_N]
    expected = [
        decoder(input_ids=torch.tensor([prompts[p] + ids[:-1]]), use_cache=False).last_hidden_state[
            0, len(prompts[p]) - 1 :
        ]
        for p, ids in zip(prompt_rows, completions, strict=True)
    ]
    difference = (found - torch.cat(expected)).float().norm() / found.float().norm()
    return bool(difference <= ROUNDING[base.dtype])
