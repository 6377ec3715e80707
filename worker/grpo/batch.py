"""Rollouts of different lengths as tensors: micro-batches of bounded size with little padding.

    prompts      left-padded,  one row a group      [P, L]
    completions  right-padded, one row a rollout    [B, T]

so that a rollout's tokens stay contiguous across the two; for models that can, also as one row
without padding, which is then what is computed (`worker.grpo.row`). Every mask comes from lengths,
never from token ids: a model whose pad is its EOS, or which has several EOS ids, needs no special
case.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from worker.grpo.row import Row, row_of
from worker.grpo.types import Prompt, Rollout

# What one more pass through the model costs beside its tokens, in tokens: on a GPU launching a
# pass takes as long as computing thousands of them.
OVERHEAD_TOKENS = {"cpu": 64, "cuda": 4096}


class Layout(Enum):
    """What a micro-batch is computed as."""

    ROW = "row"
    """One row of all tokens, each prompt once: no padding."""
    SHARED = "shared"
    """Prompts padded, each once, and completions padded, which continue them."""
    WHOLE = "whole"
    """Each completion with its prompt, padded."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A rollout as it is trained."""

    group: int
    """Position of its group in the step: siblings share it, and their prompt."""
    prompt: Prompt
    rollout: Rollout
    advantage: float
    weight: float
    """What each of its trained tokens weighs in the step's loss."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward and backward pass works on."""

    prompt_ids_PL: Tensor
    prompt_mask_PL: Tensor
    """True on the prompt's tokens, False on the padding to their left."""
    prompt_row_B: Tensor
    """The row of the prompts that a rollout answers."""
    completion_ids_BT: Tensor
    completion_mask_BT: Tensor
    """True on the completion's tokens, False on the padding to their right."""
    loss_mask_BT: Tensor
    sampler_logprobs_BT: Tensor
    advantages_B: Tensor
    weights_B: Tensor
    layout: Layout
    row: Row | None
    """The same tokens as one row, where that is the layout."""


def plan(
    samples: Sequence[Sample], *, max_tokens: int, layout: Layout, overhead_tokens: int = 0
) -> list[list[Sample]]:
    """Split samples into micro-batches of at most `max_tokens` tokens each, padding included.

    Unless each completion is computed with its prompt, a prompt is computed once a micro-batch,
    however many of its rollouts are in it. Rollouts of like length together save padding, siblings
    together save prompts: of the orders the one with fewer tokens is taken, a micro-batch counting
    `overhead_tokens` by itself. A rollout that alone exceeds the budget gets a micro-batch of its
    own.
    """
    longest_of: dict[int, int] = {}
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        longest_of[sample.group] = max(longest_of.get(sample.group, 0), _length(sample))
        groups.setdefault(sample.group, []).append(sample)
    by_length = sorted(samples, key=lambda s: (-_length(s), s.group))
    by_group = sorted(samples, key=lambda s: (-longest_of[s.group], s.group, -_length(s)))
    # What an order gives one after the other: rollouts, or groups that are to stay together.
    orders = [[[sample] for sample in by_group]]
    if layout is Layout.ROW:
        orders.append([unit for group in groups.values() for unit in _units(group, max_tokens)])
    else:
        orders.append([[sample] for sample in by_length])
    plans = [_pack(order, max_tokens, layout, overhead_tokens) for order in orders]
    cheapest = min(
        plans, key=lambda packs: sum(pack.num_tokens + overhead_tokens for pack in packs)
    )
    return [pack.samples for pack in cheapest]


@dataclass(slots=True)
class _Pack:
    """A micro-batch in the making, and what it will cost."""

    layout: Layout
    samples: list[Sample] = field(default_factory=list)
    groups: set[int] = field(default_factory=set)
    prompt_length: int = 0
    completion_length: int = 0
    row_length: int = 0

    @property
    def num_tokens(self) -> int:
        if self.layout is Layout.ROW:
            return self.row_length
        is_shared = self.layout is Layout.SHARED
        num_prompts = len(self.groups) if is_shared else len(self.samples)
        return num_prompts * self.prompt_length + len(self.samples) * self.completion_length

    def plus(self, samples: Sequence[Sample]) -> "_Pack":
        new_prompts = {s.group: len(s.prompt.ids) for s in samples if s.group not in self.groups}
        return _Pack(
            self.layout,
            [*self.samples, *samples],
            self.groups | new_prompts.keys(),
            max([self.prompt_length, *new_prompts.values()]),
            max(self.completion_length, *map(_length, samples)),
            self.row_length + sum(new_prompts.values()) + sum(map(_length, samples)),
        )


def _pack(
    order: Sequence[Sequence[Sample]], max_tokens: int, layout: Layout, overhead_tokens: int
) -> list[_Pack]:
    """Cut an order where the budget ends or lengths have halved; join what is cheaper as one."""
    pieces: list[_Pack] = []
    for samples in order:
        grown = pieces[-1].plus(samples) if pieces else None
        if (
            grown is not None
            and grown.num_tokens <= max_tokens
            and (layout is Layout.ROW or 2 * _length(samples[0]) >= grown.completion_length)
        ):
            pieces[-1] = grown
        else:
            pieces.append(_Pack(layout).plus(samples))
    packs = pieces[:1]
    for piece in pieces[1:]:
        joined = packs[-1].plus(piece.samples)
        apart = packs[-1].num_tokens + piece.num_tokens + overhead_tokens
        if joined.num_tokens <= min(apart, max_tokens):
            packs[-1] = joined
        else:
            packs.append(piece)
    return packs


def _units(group: list[Sample], max_tokens: int) -> list[list[Sample]]:
    """Return the group as one, or its rollouts one by one where it exceeds the budget."""
    is_small = _Pack(Layout.ROW).plus(group).num_tokens <= max_tokens
    return [group] if is_small else [[sample] for sample in group]


def _length(sample: Sample) -> int:
    return len(sample.rollout.completion_ids)


def longest(samples: Sequence[Sample]) -> int:
    """Return the tokens of the longest sequence, its prompt included."""
    return max((len(s.prompt.ids) + _length(s) for s in samples), default=0)


def collate(samples: Sequence[Sample], device: torch.device, layout: Layout) -> MicroBatch:
    """Return the tensors of one micro-batch on `device`."""
    groups = {s.group: s.prompt for s in samples}
    rows = {group: row for row, group in enumerate(groups)}
    prompts = [prompt.ids for prompt in groups.values()]
    rollouts = [s.rollout for s in samples]
    completions = [r.completion_ids for r in rollouts]
    prompt_rows = [rows[s.group] for s in samples]
    tensors = {
        "prompt_ids_PL": pad_left(prompts),
        "prompt_mask_PL": pad_left([[True] * len(ids) for ids in prompts]),
        "prompt_row_B": torch.tensor(prompt_rows),
        "completion_ids_BT": pad_right(completions),
        "completion_mask_BT": pad_right([[True] * len(ids) for ids in completions]),
        "loss_mask_BT": pad_right([r.loss_mask for r in rollouts]),
        "sampler_logprobs_BT": pad_right([r.sampler_logprobs for r in rollouts], torch.float64),
        "advantages_B": torch.tensor([s.advantage for s in samples], dtype=torch.float64),
        "weights_B": torch.tensor([s.weight for s in samples], dtype=torch.float64),
    }
    return MicroBatch(
        **{name: tensor.to(device) for name, tensor in tensors.items()},
        layout=layout,
        row=row_of(prompts, completions, prompt_rows, device) if layout is Layout.ROW else None,
    )


def pad_left(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the rows as one tensor, zeros (or False) to the left of the shorter ones."""
    width = max(map(len, rows))
    return torch.tensor([[*_zeros(row, width), *row] for row in rows])


def pad_right(rows: Sequence[Sequence[float]], dtype: torch.dtype | None = None) -> Tensor:
    """Return the rows as one tensor, zeros (or False) to the right of the shorter ones."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *_zeros(row, width)] for row in rows], dtype=dtype)


def _zeros(row: Sequence[float], width: int) -> Iterable[float]:
    return [type(row[0])(0)] * (width - len(row))
