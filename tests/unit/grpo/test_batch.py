"""How rollouts become tensors: every one once, within the budget, masked by length alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.grpo.batch import Layout, Sample, collate, pad_left, plan
from worker.grpo.types import Prompt, Rollout


def sample(group: int, prompt_length: int, length: int, *, token: int = 7) -> Sample:
    prompt = Prompt(group, [token] * prompt_length)
    rollout = Rollout(group, 0, [token] * length, [-1.0] * length, "stop", [True] * length)
    return Sample(group, prompt, rollout, 0.5, 0.25)


def cost(batch: list[Sample], layout: Layout) -> int:
    prompts = {s.group: len(s.prompt.ids) for s in batch}
    if layout is Layout.ROW:
        return sum(prompts.values()) + sum(len(s.rollout.completion_ids) for s in batch)
    num_prompts = len(prompts) if layout is Layout.SHARED else len(batch)
    prompt_length = max(len(s.prompt.ids) for s in batch)
    return num_prompts * prompt_length + len(batch) * max(
        len(s.rollout.completion_ids) for s in batch
    )


groups = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 50), min_size=1, max_size=6)),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, database=None)
@given(groups, st.integers(1, 600), st.sampled_from(Layout), st.sampled_from([0, 64, 4096]))
def test_every_sample_is_planned_once_and_within_the_budget(
    shape: list[tuple[int, list[int]]], max_tokens: int, layout: Layout, overhead_tokens: int
) -> None:
    samples = [
        sample(i, prompt_length, length)
        for i, (prompt_length, lengths) in enumerate(shape)
        for length in lengths
    ]
    batches = plan(
        samples,
        max_tokens=max_tokens,
        layout=layout,
        overhead_tokens=overhead_tokens,
    )
    assert sorted(id(s) for batch in batches for s in batch) == sorted(map(id, samples))
    for batch in batches:
        assert len(batch) == 1 or cost(batch, layout) <= max_tokens


def test_lengths_are_kept_apart_when_padding_would_cost_more() -> None:
    samples = [sample(i, 5, length) for i, length in enumerate([400] * 2 + [10] * 30)]
    apart = plan(samples, max_tokens=100_000, layout=Layout.SHARED, overhead_tokens=64)
    assert [len(batch) for batch in apart] == [2, 30]
    joined = plan(samples, max_tokens=100_000, layout=Layout.SHARED, overhead_tokens=100_000)
    assert [len(batch) for batch in joined] == [32]


def test_siblings_stay_together_when_prompts_are_long() -> None:
    samples = [sample(i, 500, 5 + j) for i in range(4) for j in range(8)]
    batches = plan(samples, max_tokens=700, layout=Layout.SHARED)
    assert [{s.group for s in batch} for batch in batches] == [{0}, {1}, {2}, {3}]


def test_in_a_row_siblings_are_parted_where_their_prompt_is_cheaper_than_another_pass() -> None:
    def sizes(prompt_length: int) -> list[int]:
        samples = [sample(i, prompt_length, 50) for i in range(4) for _ in range(6)]
        batches = plan(samples, max_tokens=620, layout=Layout.ROW, overhead_tokens=64)
        return [len(batch) for batch in batches]

    assert sizes(10) == [12, 12]
    assert sizes(100) == [6, 6, 6, 6]


def test_nothing_is_planned_for_nothing() -> None:
    assert plan([], max_tokens=10, layout=Layout.SHARED) == []


@pytest.mark.parametrize("token", [0, 1])
def test_masks_come_from_lengths_not_from_ids(token: int) -> None:
    """The pad id, an EOS id or any other inside a completion is a token like the rest."""
    samples = [sample(0, 3, 2, token=token), sample(0, 3, 4, token=token), sample(4, 1, 1)]
    batch = collate(samples, torch.device("cpu"), Layout.SHARED)
    assert batch.prompt_mask_PL.tolist() == [[True] * 3, [False, False, True]]
    assert batch.completion_mask_BT.sum(dim=1).tolist() == [2, 4, 1]
    assert batch.loss_mask_BT.equal(batch.completion_mask_BT)
    assert batch.prompt_row_B.tolist() == [0, 0, 1]
    assert batch.completion_ids_BT[1].tolist() == [token] * 4
    assert batch.sampler_logprobs_BT[0].tolist() == [-1, -1, 0, 0]
    assert batch.weights_B.dtype == batch.advantages_B.dtype == torch.float64


def test_pad_left() -> None:
    assert pad_left([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [0, 0, 4]]
