"""A micro-batch as one row of tokens: every prompt once, then the completions, and no padding.

    prompt 0, prompt 1, ...;  completions of prompt 0, completions of prompt 1, ...

A completion's last token is not in it: nothing is predicted from it. Only attention tells the
sequences apart, and it alone computes them as padded batches: of sequences of like length, or,
where all are so short that calls cost more than products, of groups with a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

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
    bias: Tensor | None
    """What is added to scores, [S, 1, 1 or queries, keys] in fp32: -inf on what is not attended to;
    None where all is that `is_causal` leaves."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Attention over a row: every sequence with itself, and completions with their prompts.

    Where groups are computed whole there is no `prefix`: a group is one sequence with a mask.
    """

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
    completion_lengths: list[list[int]] = [[] for _ in prompts]
    for i, start in zip(order, starts[len(prompts) :], strict=False):
        end = start + len(completions[i]) - 1
        states[i] = [starts[prompt_rows[i] + 1] - 1, *range(start, end)]
        completion_lengths[prompt_rows[i]].append(end - start)
    return Row(
        ids_N=torch.tensor([i for piece in pieces for i in piece], device=device),
        positions_N=torch.tensor(
            [i for o, p in zip(offsets, pieces, strict=True) for i in range(o, o + len(p))],
            device=device,
        ),
        states_N=torch.tensor([i for group in states for i in group], device=device),
        num_prompt_tokens=num_prompt_tokens,
        parts=_parts(list(map(len, prompts)), completion_lengths, device),
    )


def _parts(
    prompt_lengths: list[int], completion_lengths: list[list[int]], device: torch.device
) -> Parts:
    """Return the cheaper parts; both lengths are those in the row, by prompt."""
    group_lengths = list(map(sum, completion_lengths))
    lengths = [*prompt_lengths, *chain(*completion_lengths)]
    sequences = [(n, n) for n in lengths]
    prefixes = list(zip(group_lengths, prompt_lengths, strict=True)) if any(group_lengths) else []
    wholes = [(n + m, n + m) for n, m in zip(prompt_lengths, group_lengths, strict=True)]
    # Joining the results of two parts takes about as long as a call.
    apart = _cost(sequences) + _cost(prefixes) + (CALL_PRODUCTS if prefixes else 0)
    num_prompt_tokens, num_tokens = sum(prompt_lengths), sum(lengths)
    starts = [0, *accumulate(lengths)]
    group_starts = list(accumulate(group_lengths, initial=num_prompt_tokens))

    own, prefix = [], []
    if _cost(wholes) < apart:
        for members in _alike(wholes):
            tokens = [
                [*range(starts[i], starts[i + 1]), *range(group_starts[i], group_starts[i + 1])]
                for i in members
            ]
            sizes = [[prompt_lengths[i], *completion_lengths[i]] for i in members]
            own.append(_whole_groups(tokens, sizes, device))
    else:
        for members in _alike(sequences):
            spans = _spans([(starts[i], lengths[i]) for i in members], device)
            # Padding is behind every token: a causal mask hides it.
            own.append(Part(spans, spans, is_causal=True, bias=None))
        for members in _alike(prefixes):
            queries = _spans([(group_starts[i], group_lengths[i]) for i in members], device)
            keys = _spans([(starts[i], prompt_lengths[i]) for i in members], device)
            prefix.append(Part(queries, keys, is_causal=False, bias=_bias(keys)))
    return Parts(
        own=own,
        own_places=_places([part.queries for part in own], 0, num_tokens),
        prefix=prefix,
        query_places=_places([part.queries for part in prefix], num_prompt_tokens, num_tokens),
        key_places=_places([part.keys for part in prefix], 0, num_prompt_tokens),
    )


def _whole_groups(tokens: list[list[int]], sizes: list[list[int]], device: torch.device) -> Part:
    """Return groups as sequences: prompt, then completions, none of which sees another.

    `sizes` are how many tokens each of them has.
    """
    width = max(map(len, tokens))
    # The prompt is 0, which all see that come after it; padding is -1.
    owners = [[n for n, size in enumerate(group) for _ in range(size)] for group in sizes]
    owners_ST = torch.tensor([row + [-1] * (width - len(row)) for row in owners], device=device)
    is_seen = (owners_ST[:, None] == 0) | (owners_ST[:, None] == owners_ST[:, :, None])
    bias = torch.zeros(is_seen.shape, device=device).masked_fill_(~is_seen.tril(), -torch.inf)
    padded = torch.tensor([row + row[-1:] * (width - len(row)) for row in tokens], device=device)
    padding = (owners_ST.flatten() < 0).nonzero().squeeze(1)
    spans = Spans(len(tokens), padded.flatten(), padding, None)
    return Part(spans, spans, is_causal=False, bias=bias[:, None])


def _cost(sizes: list[tuple[int, int]]) -> int:
    """Return products of queries and keys, padding and calls included."""
    batches = [[sizes[i] for i in members] for members in _alike(sizes)]
    return sum(
        len(batch) * max(q for q, _ in batch) * max(k for _, k in batch) + CALL_PRODUCTS
        for batch in batches
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


def _bias(keys: Spans) -> Tensor | None:
    """Return what hides the keys that are padding."""
    if not len(keys.padding):
        return None
    bias = torch.zeros(len(keys.tokens), device=keys.tokens.device)
    return bias.index_fill_(0, keys.padding, -torch.inf).view(keys.num_spans, 1, 1, -1)


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
