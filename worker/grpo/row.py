"""A micro-batch as one row of tokens: every prompt once, then the completions, and no padding.

    prompt 0, prompt 1, ...;  completions of prompt 0, completions of prompt 1, ...

A completion's last token is not in it: nothing is predicted from it. Only attention tells the
sequences apart, and it alone computes them as padded batches, of sequences of like length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

# What one more call of an attention kernel costs, in products of a query and a key.
CALL_PRODUCTS = 4096


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of the row as one batch, padded on its right to the longest: [S, T] places."""

    num_spans: int
    tokens: Tensor
    """[S * T] each place's token in the row; padding repeats one."""
    padding: Tensor
    """Places that hold no token."""
    only: slice | None
    """The stretch, where it is one alone."""

    def batch(self, row: Tensor) -> Tensor:
        """Return the spans of a row [N, heads, ...], heads first: [S, heads, T, ...].

        A stretch alone is a view of the row.
        """
        flat = row.index_select(0, self.tokens) if self.only is None else row[self.only]
        return flat.unflatten(0, (self.num_spans, -1)).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class Part:
    """What one call of an attention kernel computes: each span's queries with its keys."""

    queries: Spans
    keys: Spans
    is_causal: bool
    mask: Tensor | None
    """[S, 1, 1, T] True on keys that are tokens; None where all that are attended to are."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Attention over a row: every sequence with itself, and completions with their prompts."""

    own: list[Part]
    own_places: Tensor
    """[N] where the row's tokens are among the places of `own`, one part after the other."""
    prefix: list[Part]
    """Queries are a group's completions, keys its prompt."""
    query_places: Tensor
    """Where the completions' tokens are among the queries of `prefix`."""
    key_places: Tensor
    """Where the prompts' tokens are among its keys."""


@dataclass(frozen=True, slots=True)
class Row:
    """All tokens of a micro-batch, N of them."""

    ids_N: Tensor
    positions_N: Tensor
    """Each token's position in its own sequence."""
    states_N: Tensor
    """The tokens from which the completions' tokens are predicted, one rollout after the other."""
    num_prompt_tokens: int
    """The row begins with them."""
    parts: Parts


def row_of(
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    prompt_rows: Sequence[int],
    device: torch.device,
) -> Row:
    """Return the row of these completions, whose prompts are `prompts[prompt_rows[i]]`."""
    order = sorted(range(len(completions)), key=lambda i: prompt_rows[i])
    pieces = [*prompts, *(completions[i][:-1] for i in order)]
    starts = [0, *accumulate(map(len, pieces))]
    offsets = [0] * len(prompts) + [len(prompts[prompt_rows[i]]) for i in order]
    num_prompt_tokens = starts[len(prompts)]
    states: list[list[int]] = [[] for _ in completions]
    group_lengths = [0] * len(prompts)
    for i, start in zip(order, starts[len(prompts) :], strict=False):
        end = start + len(completions[i]) - 1
        states[i] = [starts[prompt_rows[i] + 1] - 1, *range(start, end)]
        group_lengths[prompt_rows[i]] += end - start
    return Row(
        ids_N=torch.tensor([i for piece in pieces for i in piece], device=device),
        positions_N=torch.tensor(
            [i for o, p in zip(offsets, pieces, strict=True) for i in range(o, o + len(p))],
            device=device,
        ),
        states_N=torch.tensor([i for group in states for i in group], device=device),
        num_prompt_tokens=num_prompt_tokens,
        parts=_parts(list(map(len, prompts)), group_lengths, list(map(len, pieces)), device),
    )


def _parts(
    prompt_lengths: list[int], group_lengths: list[int], lengths: list[int], device: torch.device
) -> Parts:
    starts = [0, *accumulate(lengths)]
    own, prefix = [], []
    for members in _alike([(n, n) for n in lengths]):
        spans = _spans([(starts[i], lengths[i]) for i in members], device)
        # Padding is behind every token: a causal mask hides it.
        own.append(Part(spans, spans, is_causal=True, mask=None))
    num_prompt_tokens = sum(prompt_lengths)
    group_starts = list(accumulate(group_lengths, initial=num_prompt_tokens))
    has_completions = starts[-1] > num_prompt_tokens
    for members in _alike(list(zip(group_lengths, prompt_lengths, strict=True))):
        if has_completions:
            queries = _spans([(group_starts[i], group_lengths[i]) for i in members], device)
            keys = _spans([(starts[i], prompt_lengths[i]) for i in members], device)
            prefix.append(Part(queries, keys, is_causal=False, mask=_mask(keys)))
    return Parts(
        own=own,
        own_places=_places([part.queries for part in own], 0, starts[-1]),
        prefix=prefix,
        query_places=_places([part.queries for part in prefix], num_prompt_tokens, starts[-1]),
        key_places=_places([part.keys for part in prefix], 0, num_prompt_tokens),
    )


def _alike(sizes: list[tuple[int, int]]) -> list[list[int]]:
    """Return which (queries, keys) go together: a new batch where padding costs more than a call.

    Those without keys are left out.
    """
    order = sorted((i for i, (_, k) in enumerate(sizes) if k), key=lambda i: sizes[i], reverse=True)
    batches: list[list[int]] = []
    widest, needed = (0, 0), 0
    for i in order:
        num_queries, num_keys = sizes[i]
        grown = (max(widest[0], num_queries), max(widest[1], num_keys))
        padding = (len(batches[-1]) + 1) * grown[0] * grown[1] if batches else 0
        padding -= needed + num_queries * num_keys
        if not batches or padding > CALL_PRODUCTS:
            batches.append([])
            grown, needed = sizes[i], 0
        batches[-1].append(i)
        widest, needed = grown, needed + num_queries * num_keys
    return batches


def _spans(spans: list[tuple[int, int]], device: torch.device) -> Spans:
    """Return the batch of spans (start, length)."""
    starts, lengths = torch.tensor(spans)[:, :, None].unbind(1)
    column = torch.arange(max(1, int(lengths.max())))[None]
    # Padding repeats a span's last token; of an empty span, the token before it.
    tokens = starts + column.minimum(lengths - 1)
    padding = (column >= lengths).flatten().nonzero().squeeze(1)
    start, length = spans[0]
    only = slice(start, start + length) if length and len(spans) == 1 else None
    return Spans(len(spans), tokens.flatten().to(device), padding.to(device), only)


def _mask(keys: Spans) -> Tensor | None:
    if not len(keys.padding):
        return None
    mask = torch.ones(len(keys.tokens), dtype=torch.bool, device=keys.tokens.device)
    return mask.index_fill(0, keys.padding, False).view(keys.num_spans, 1, 1, -1)


def _places(batches: list[Spans], start: int, stop: int) -> Tensor:
    """Return where the row's tokens from `start` to `stop` are in these batches as one row."""
    if not batches:
        return torch.empty(0, dtype=torch.long)
    tokens = torch.cat([spans.tokens for spans in batches])
    padding, offset = [], 0
    for spans in batches:
        padding.append(spans.padding + offset)
        offset += len(spans.tokens)
    is_token = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    is_token[torch.cat(padding)] = False
    places = torch.empty(stop - start, dtype=torch.long, device=tokens.device)
    places[tokens[is_token] - start] = is_token.nonzero().squeeze(1)
    return places
