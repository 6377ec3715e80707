"""Rollouts of different lengths as tensors: micro-batches of bounded size with little padding.

    prompts      left-padded,  one row a group      [P, L]
    completions  right-padded, one row a rollout    [B, T]

so that a rollout's tokens stay contiguous across the two. Every mask comes from lengths, never
from token ids: a model whose pad is its EOS, or which has several EOS ids, needs no special case.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.grpo.types import Prompt, Rollout

# What one more pass through the model costs beside its tokens, in tokens: on a GPU launching a
# pass takes as long as computing thousands of them.
OVERHEAD_TOKENS = {"cpu": 64, "cuda": 4096}


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


def plan(
    samples: Sequence[Sample], *, max_tokens: int, share_prompts: bool, overhead_tokens: int = 0
) -> list[list[Sample]]:
    """Split samples into micro-batches of at most `max_tokens` padded tokens each.

    With `share_prompts` a prompt is computed once a micro-batch, however many of its rollouts are
    in it. Rollouts of like length together save padding, siblings together save prompts: of the
    two orders the one with fewer tokens is taken, a micro-batch counting `overhead_tokens` by
    itself. A rollout that alone exceeds the budget gets a micro-batch of its own.
    """
    longest: dict[int, int] = {}
    for sample in samples:
        longest[sample.group] = max(longest.get(sample.group, 0), _length(sample))
    orders = (
        sorted(samples, key=lambda s: (-_length(s), s.group)),
        sorted(samples, key=lambda s: (-longest[s.group], s.group, -_length(s))),
    )
    plans = [_pack(order, max_tokens, share_prompts, overhead_tokens) for order in orders]
    cheapest = min(
        plans, key=lambda packs: sum(pack.num_tokens + overhead_tokens for pack in packs)
    )
    return [pack.samples for pack in cheapest]


@dataclass(slots=True)
class _Pack:
    """A micro-batch in the making, and what it will cost."""

    share_prompts: bool
    samples: list[Sample] = field(default_factory=list)
    groups: set[int] = field(default_factory=set)
    prompt_length: int = 0
    completion_length: int = 0

    @property
    def num_tokens(self) -> int:
        num_prompts = len(self.groups) if self.share_prompts else len(self.samples)
        return num_prompts * self.prompt_length + len(self.samples) * self.completion_length

    def plus(self, samples: Sequence[Sample]) -> "_Pack":
        return _Pack(
            self.share_prompts,
            [*self.samples, *samples],
            self.groups.union(s.group for s in samples),
            max(self.prompt_length, *(len(s.prompt.ids) for s in samples)),
            max(self.completion_length, *(_length(s) for s in samples)),
        )


def _pack(
    order: Sequence[Sample], max_tokens: int, share_prompts: bool, overhead_tokens: int
) -> list[_Pack]:
    """Cut an order where the budget ends or lengths have halved; join what is cheaper as one."""
    pieces: list[_Pack] = []
    for sample in order:
        grown = pieces[-1].plus([sample]) if pieces else None
        if (
            grown is not None
            and grown.num_tokens <= max_tokens
            and 2 * _length(sample) >= grown.completion_length
        ):
            pieces[-1] = grown
        else:
            pieces.append(_Pack(share_prompts).plus([sample]))
    packs = pieces[:1]
    for piece in pieces[1:]:
        joined = packs[-1].plus(piece.samples)
        apart = packs[-1].num_tokens + piece.num_tokens + overhead_tokens
        if joined.num_tokens <= min(apart, max_tokens):
            packs[-1] = joined
        else:
            packs.append(piece)
    return packs


def _length(sample: Sample) -> int:
    return len(sample.rollout.completion_ids)


def collate(samples: Sequence[Sample], device: torch.device) -> MicroBatch:
    """Return the tensors of one micro-batch on `device`."""
    groups = {s.group: s.prompt for s in samples}
    rows = {group: row for row, group in enumerate(groups)}
    prompts = [prompt.ids for prompt in groups.values()]
    rollouts = [s.rollout for s in samples]
    completions = [r.completion_ids for r in rollouts]
    batch = MicroBatch(
        prompt_ids_PL=pad_left(prompts),
        prompt_mask_PL=pad_left([[True] * len(ids) for ids in prompts]),
        prompt_row_B=torch.tensor([rows[s.group] for s in samples]),
        completion_ids_BT=pad_right(completions),
        completion_mask_BT=pad_right([[True] * len(ids) for ids in completions]),
        loss_mask_BT=pad_right([r.loss_mask for r in rollouts]),
        sampler_logprobs_BT=pad_right([r.sampler_logprobs for r in rollouts]),
        advantages_B=torch.tensor([s.advantage for s in samples], dtype=torch.float64),
        weights_B=torch.tensor([s.weight for s in samples], dtype=torch.float64),
    )
    if device.type == "cpu":
        return batch
    return MicroBatch(**{f: getattr(batch, f).to(device) for f in MicroBatch.__slots__})


def pad_left(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the rows as one tensor, zeros (or False) to the left of the shorter ones."""
    width = max(map(len, rows))
    return torch.tensor([[*_zeros(row, width), *row] for row in rows])


def pad_right(rows: Sequence[Sequence[float]]) -> Tensor:
    """Return the rows as one tensor, zeros (or False) to the right of the shorter ones."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *_zeros(row, width)] for row in rows])


def _zeros(row: Sequence[float], width: int) -> Iterable[float]:
    return [type(row[0])(0)] * (width - len(row))
