"""Rows that are being answered, each at a place of its own: new ones join between two tokens.

All rows end at the same column; a shorter one is padded on its left, where the mask hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PretrainedConfig

from worker.grpo.batch import pad_left
from worker.grpo.cache import BufferedLayer, GroupCache
from worker.grpo.forward import positions

GROWTH = 256  # Columns that a full cache grows by.
MAX_WASTE = 0.25  # Padding that no row needs is cut off when it is this share of the columns.


class Decoder(Protocol):
    """What a batch needs of a model."""

    @property
    def device(self) -> torch.device: ...

    @property
    def config(self) -> PretrainedConfig: ...

    def logits(
        self,
        ids_BL: Tensor,
        *,
        mask_BL: Tensor | None,
        positions_BL: Tensor,
        cache: GroupCache,
        adapters: Sequence[str],
    ) -> Tensor:
        """Return the last column's [B, V] logits, each row with its own adapter."""
        ...


class LiveBatch:
    """Rows in the order they came; `logits_BV` predicts each one's next token."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        *,
        adapters: Sequence[str],
        copies: Sequence[int],
    ) -> None:
        """Compute each prompt once, with its adapter, and make as many rows of it as `copies`."""
        ids_PL = pad_left(prompts).to(decoder.device)
        mask_PL = pad_left([[True] * len(ids) for ids in prompts]).to(decoder.device)
        self.decoder = decoder
        self.length = ids_PL.shape[1]
        self.cache = GroupCache(decoder.config, capacity=self.length)
        logits_PV = decoder.logits(
            ids_PL,
            mask_BL=None if bool(mask_PL.all()) else mask_PL,
            positions_BL=positions(mask_PL),
            cache=self.cache,
            adapters=adapters,
        )
        rows = [row for row, count in enumerate(copies) for _ in range(count)]
        rows_B = torch.tensor(rows, device=decoder.device)
        self.capacity = self.length + GROWTH
        self.cache.spread(rows_B, capacity=self.capacity)
        self.adapters = [adapters[row] for row in rows]
        self.mask_BL = mask_PL[rows_B]
        self.next_position_B = mask_PL.sum(dim=1)[rows_B]
        self.logits_BV = logits_PV[rows_B]

    def __len__(self) -> int:
        return len(self.adapters)

    def advance(self, ids: Sequence[int]) -> None:
        """Append one token to every row."""
        if self.length == self.capacity:
            self.capacity += GROWTH
            everyone = torch.arange(len(self), device=self.decoder.device)
            self.cache.spread(everyone, capacity=self.capacity)
        self.length += 1
        self.mask_BL = torch.cat([self.mask_BL, self.mask_BL.new_ones(len(self), 1)], dim=1)
        self.logits_BV = self.decoder.logits(
            torch.tensor(ids, device=self.decoder.device)[:, None],
            mask_BL=None if bool(self.mask_BL.all()) else self.mask_BL,
            positions_BL=self.next_position_B[:, None],
            cache=self.cache,
            adapters=self.adapters,
        )
        self.next_position_B = self.next_position_B + 1

    def keep(self, order: Sequence[int]) -> None:
        """Drop all rows but those in `order`, which `worker.grpo.compaction.without` has made."""
        order_B = torch.tensor(order, device=self.decoder.device)
        self.cache.keep(order_B)
        self.adapters = [self.adapters[row] for row in order]
        self.mask_BL = self.mask_BL[order_B]
        self.next_position_B = self.next_position_B[order_B]
        self.logits_BV = self.logits_BV[order_B]
        self._trim()

    def join(self, other: LiveBatch) -> None:
        """Take the other's rows in behind the own ones; plain attention only."""
        length = max(self.length, other.length)
        self.capacity = length + GROWTH
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            assert isinstance(mine, BufferedLayer) and isinstance(theirs, BufferedLayer)  # noqa: PT018
            _join(mine, theirs, length, self.capacity)
        self.mask_BL = torch.cat([_padded(batch.mask_BL, length) for batch in (self, other)])
        self.next_position_B = torch.cat([self.next_position_B, other.next_position_B])
        self.logits_BV = torch.cat([self.logits_BV, other.logits_BV])
        self.adapters = self.adapters + other.adapters
        self.length = length

    def _trim(self) -> None:
        """Cut off the columns that are padding in every row, where that is worth a copy."""
        if len(self) == 0:
            return
        unused = int(self.mask_BL.any(dim=0).long().argmax())
        is_plain = all(isinstance(layer, BufferedLayer) for layer in self.cache.layers)
        if not is_plain or unused < self.length * MAX_WASTE:
            return
        for layer in self.cache.layers:
            assert isinstance(layer, BufferedLayer)
            _cut_left(layer, unused)
        self.length -= unused
        self.capacity -= unused
        self.mask_BL = self.mask_BL[:, unused:]


def _padded(mask_BL: Tensor, length: int) -> Tensor:
    rows, width = mask_BL.shape
    return torch.cat([mask_BL.new_zeros(rows, length - width), mask_BL], dim=1)


def _join(mine: BufferedLayer, theirs: BufferedLayer, length: int, capacity: int) -> None:
    assert mine.buffers is not None
    assert theirs.buffers is not None
    joined = []
    for ours, others in zip(mine.buffers, theirs.buffers, strict=True):
        num_rows, heads, _, size = ours.shape
        # Zeros: what the mask hides is still multiplied, and 0 times not-a-number is not 0.
        room = ours.new_zeros(num_rows + len(others), heads, capacity, size)
        room[:num_rows, :, length - mine.length : length] = ours[:, :, : mine.length]
        room[num_rows:, :, length - theirs.length : length] = others[:, :, : theirs.length]
        joined.append(room)
    _install(mine, joined, length, capacity)


def _cut_left(layer: BufferedLayer, columns: int) -> None:
    assert layer.buffers is not None
    rest = [buffer[:, :, columns:].contiguous() for buffer in layer.buffers]
    _install(layer, rest, layer.length - columns, layer.capacity - columns)


def _install(layer: BufferedLayer, buffers: list[Tensor], length: int, capacity: int) -> None:
    keys, values = buffers
    layer.buffers, layer.length, layer.capacity = (keys, values), length, capacity
    layer.keys, layer.values = keys[:, :, :length], values[:, :, :length]
