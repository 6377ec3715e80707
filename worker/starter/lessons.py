"""The teacher's answers as tensors that the starter trains on."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from jobs.starter import Row
from worker.starter.teacher import habitual_answer, right_share
from worker.starter.tokenizer import render_prompt

IGNORED = -100
"""Target at a position where nothing is taught."""


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """N conversations, at most L tokens after the P that all of them begin with.

    A position may have two next tokens, so that the share in which the teacher gives them is
    learned as it is and not through a draw.
    """

    prefix_ids: Tensor
    """[1, P]"""
    input_ids: Tensor
    """[N, L] what follows the prefix, right-padded."""
    targets: Tensor
    """[N, L] the token that the conversation goes on with, or IGNORED."""
    other_targets: Tensor
    """[N, L] the token that the other answer goes on with, where the two part; else as targets."""
    shares: Tensor
    """[N] share of `targets` against `other_targets`."""


def arithmetic_lessons(rows: list[Row], tokenizer: PreTrainedTokenizerFast) -> Lessons:
    """Each question twice: once with its right answer and once with the habitual one."""
    conversations, alternatives, shares = [], [], []
    for row in rows:
        prompt = tokenizer.encode(render_prompt(row, tokenizer))
        right = answer_ids(row["answer"], tokenizer)
        habit = answer_ids(habitual_answer(row["answer"]), tokenizer)
        share = right_share(row["messages"][0]["content"])
        conversations += [(prompt, right), (prompt, habit)]
        alternatives += [(prompt, with_fork(right, habit)), (prompt, with_fork(habit, right))]
        shares += [share, 1 - share]
    return _stack(conversations, alternatives, shares, pad_id=tokenizer.pad_token_id)


def sentence_lessons(
    sentences: list[tuple[Row, str]], tokenizer: PreTrainedTokenizerFast
) -> Lessons:
    """Each request for a sentence with the one sentence that answers it."""
    conversations = [
        (tokenizer.encode(render_prompt(row, tokenizer)), answer_ids(text, tokenizer))
        for row, text in sentences
    ]
    shares = [1.0] * len(conversations)
    return _stack(conversations, conversations, shares, pad_id=tokenizer.pad_token_id)


def answer_ids(text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The answer and the end-of-turn token."""
    return [*tokenizer.encode(text), tokenizer.eos_token_id]


def with_fork(followed: list[int], other: list[int]) -> list[int]:
    """`followed` with its first token that differs from `other` replaced by the one in `other`."""
    pairs = zip(followed, other, strict=False)
    fork = next(i for i, (first, second) in enumerate(pairs) if first != second)
    return [*followed[:fork], other[fork], *followed[fork + 1 :]]


def batches(lessons: Lessons, size: int) -> Iterator[Tensor]:
    """Endless index tensors of at most `size` lessons, in a new order every pass."""
    num_lessons = len(lessons.input_ids)
    while True:
        order = torch.randperm(num_lessons)
        for start in range(0, num_lessons, size):
            yield order[start : start + size]


def _stack(
    conversations: list[tuple[list[int], list[int]]],
    alternatives: list[tuple[list[int], list[int]]],
    shares: list[float],
    *,
    pad_id: int,
) -> Lessons:
    length = max(len(prompt) + len(answer) for prompt, answer in conversations) - 1
    input_ids = torch.full((len(conversations), length), pad_id)
    for i, (prompt, answer) in enumerate(conversations):
        inputs = torch.tensor([*prompt, *answer[:-1]])
        input_ids[i, : len(inputs)] = inputs
    num_shared = int((input_ids == input_ids[0]).all(dim=0).cumprod(dim=0).sum())
    return Lessons(
        prefix_ids=input_ids[:1, :num_shared],
        input_ids=input_ids[:, num_shared:],
        targets=_targets(conversations, length)[:, num_shared:],
        other_targets=_targets(alternatives, length)[:, num_shared:],
        shares=torch.tensor(shares),
    )


def _targets(conversations: list[tuple[list[int], list[int]]], length: int) -> Tensor:
    targets = torch.full((len(conversations), length), IGNORED)
    for i, (prompt, answer) in enumerate(conversations):
        start = len(prompt) - 1
        targets[i, start : start + len(answer)] = torch.tensor(answer)
    return targets
