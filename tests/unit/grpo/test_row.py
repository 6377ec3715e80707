"""A row's attention is every sequence's own, whatever lengths meet in it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from worker.grpo import row as row_module
from worker.grpo.attention import RowAttention
from worker.grpo.row import Row, row_of

HEADS, KV_HEADS, SIZE = 4, 2, 8
shapes = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, database=None, max_examples=60)
@given(shapes, st.sampled_from([0, 50, 10**6]), st.randoms(use_true_random=False))
def test_outputs_and_gradients_are_those_of_each_sequence_alone(
    shape: list[tuple[int, list[int]]], call_products: int, random: object
) -> None:
    pairs = [(p, length) for p, (_, lengths) in enumerate(shape) for length in lengths]
    random.shuffle(pairs)
    prompts = [[p] * length for p, (length, _) in enumerate(shape)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_module, "CALL_PRODUCTS", call_products)
        row = row_of(
            prompts, [[p] * n for p, n in pairs], [p for p, _ in pairs], torch.device("cpu")
        )
    torch.manual_seed(0)
    num_tokens = len(row.ids_N)
    states = [
        torch.randn(num_tokens, heads, SIZE, dtype=torch.float64, requires_grad=True)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    out = RowAttention.apply(*states, row, 0.3)
    expected = one_by_one(*states, row, prompts, pairs)
    assert (out - expected).abs().max() < 1e-12
    weights = torch.randn(out.shape, dtype=torch.float64)
    found = torch.autograd.grad((out * weights).sum(), states)
    for one, other in zip(
        found, torch.autograd.grad((expected * weights).sum(), states), strict=True
    ):
        assert (one - other).abs().max() < 1e-10


def test_short_groups_are_one_call_and_long_ones_share_their_prompts() -> None:
    def row(prompt: int, completion: int) -> Row:
        prompts, completions = [[0] * prompt] * 8, [[1] * completion] * 64
        return row_of(prompts, completions, [i // 8 for i in range(64)], torch.device("cpu"))

    short = row(17, 4).parts
    assert len(short.own) == 1
    assert not short.prefix
    assert row(256, 4).parts.prefix
    assert row(17, 100).parts.prefix


def one_by_one(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    row: Row,
    prompts: list[list[int]],
    pairs: list[tuple[int, int]],
) -> Tensor:
    """The same, a sequence at a time: its prompt's tokens and its own, which it is found by."""
    out: dict[int, Tensor] = {}
    first_states = torch.split(row.states_N, [n for _, n in pairs])
    for (p, _), states in zip(pairs, first_states, strict=True):
        last = int(states[0])
        tokens = [*range(last + 1 - len(prompts[p]), last), *states.tolist()]
        assert row.ids_N[tokens].tolist() == [p] * len(tokens)
        assert row.positions_N[tokens].tolist() == list(range(len(tokens)))
        heads = (s[tokens].transpose(0, 1)[None] for s in (q, k, v))
        alone = scaled_dot_product_attention(*heads, is_causal=True, scale=0.3, enable_gqa=True)
        out |= dict(zip(tokens, alone[0].transpose(0, 1), strict=True))
    assert sorted(out) == list(range(len(row.ids_N)))
    return torch.stack([out[i] for i in range(len(out))])
