"""A KV cache with room for the whole completion, from which finished rows can be dropped.

transformers' own cache is concatenated anew for every token, which copies all of it each time
(60 % of a decode step of a small model on the CPU). This one writes into a buffer in place.
"""

import math
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class BufferedLayer(DynamicLayer):
    """One layer's keys and values: views of buffers [rows, heads, capacity, head size]."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the states of new tokens and return those of all tokens."""
        if self.buffers is None:
            self.lazy_initialization(key_states, value_states)
            self.buffers = (self._room(key_states), self._room(value_states))
        start, self.length = self.length, self.length + key_states.shape[-2]
        keys, values = self.buffers
        keys[:, :, start : self.length] = key_states
        values[:, :, start : self.length] = value_states
        self.keys, self.values = keys[:, :, : self.length], values[:, :, : self.length]
        return self.keys, self.values

    def spread(self, rows: Tensor, capacity: int) -> None:
        """Make row i a copy of the old row rows[i], with room for `capacity` tokens."""
        self.capacity = capacity
        assert self.buffers is not None
        keys, values = (buffer[rows, :, : self.length] for buffer in self.buffers)
        self.buffers = (self._room(keys), self._room(values))
        for buffer, old in zip(self.buffers, (keys, values), strict=True):
            buffer[:, :, : self.length] = old

    def move(self, sources: Tensor, targets: Tensor, num_rows: int) -> None:
        """Copy rows over finished ones and keep the first `num_rows`."""
        assert self.buffers is not None
        for buffer in self.buffers:
            buffer[targets, :, : self.length] = buffer[sources, :, : self.length]
        keys, values = self.buffers
        self.buffers = (keys[:num_rows], values[:num_rows])

    def _room(self, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        return states.new_empty(rows, heads, self.capacity, size)


class GroupCache(DynamicCache):
    """The KV cache of a decode loop: prompts first, then their groups, then those still going.

    Layers that are not plain attention (recurrent states) keep transformers' own cache.
    """

    def __init__(self, config: PretrainedConfig, *, capacity: int) -> None:
        super().__init__(config=config)
        self.layers = [
            BufferedLayer(capacity) if type(layer) in PLAIN_ATTENTION else layer
            for layer in self.layers
        ]

    def spread(self, rows: Tensor, *, capacity: int) -> None:
        """Make row i a copy of the old row rows[i], with room for `capacity` tokens."""
        for layer in self.layers:
            if isinstance(layer, BufferedLayer):
                layer.spread(rows, capacity)
            else:
                layer.reorder_cache(cast(torch.LongTensor, rows))

    def keep(self, order: Tensor) -> None:
        """Keep the rows in `order`: every one in its own place or in that of a dropped one."""
        targets = (order != torch.arange(len(order), device=order.device)).nonzero().squeeze(1)
        sources = order[targets]
        for layer in self.layers:
            if isinstance(layer, BufferedLayer):
                layer.move(sources, targets, len(order))
            else:
                layer.reorder_cache(cast(torch.LongTensor, order))


def cache_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Return about how many bytes of cache one token takes."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * head_size * dtype.itemsize)


# A sliding window needs no cache of its own kind: the mask hides what the window has left.
PLAIN_ATTENTION = (DynamicLayer, DynamicSlidingWindowLayer)


def is_plain_attention(config: PretrainedConfig) -> bool:
    """Return whether every layer's state is keys and values, which a group can share."""
    return all(type(layer) in PLAIN_ATTENTION for layer in DynamicCache(config=config).layers)


def attention_window(config: PretrainedConfig) -> float:
    """Return how many tokens back the layer with the shortest sight sees, infinity if all do."""
    layers = DynamicCache(config=config).layers
    return min((getattr(layer, "sliding_window", math.inf) for layer in layers), default=math.inf)
