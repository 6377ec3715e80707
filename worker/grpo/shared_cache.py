"""Keys and values of groups of rollouts, a long prompt's kept and read once for its whole group.

    softmax over prompt and completion  =  both parts, weighed by their log-sum-exps

so the prompt's part of a decode step is one product for all rows of a group, and exact.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.grpo.compaction import compacted, without

# Shorter prompts are copied to every row: one attention call costs less than two and their sum.
MIN_SHARED_TOKENS = 64


class SharedCache:
    """Prompts first, padded on the right; then their rows, of one length, in any order."""

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        num_layers: int,
        kv_heads: int,
        head_size: int,
        dtype: torch.dtype,
    ) -> None:
        """`lengths` are those of the prompts."""
        self.kv_heads, self.head_size = kv_heads, head_size
        self.length = max(lengths)
        shape = (num_layers, 2, len(lengths), kv_heads, self.length, head_size)
        self.prompts = torch.empty(shape, dtype=dtype)
        """[layers, keys and values, prompts, heads, tokens, head size], as `rows` are."""
        bias_PL = torch.zeros(len(lengths), self.length, dtype=dtype)
        for row, length in enumerate(lengths):
            bias_PL[row, length:] = -torch.inf
        self.prompt_bias = bias_PL[:, None, None] if min(lengths) < self.length else None

    def read(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep the prompts' [P * L, heads, size] states and return their causal attention."""
        shape = (self.prompts.shape[2], self.length, -1, self.head_size)
        query, keys, values = (x.view(shape).transpose(1, 2) for x in (q, k, v))
        self.prompts[layer, 0], self.prompts[layer, 1] = keys, values
        # What a padded column sees, nobody reads; what comes after a token, it does not see.
        out = F.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).reshape(len(q), -1)

    def spread(self, num_samples: int, max_tokens: int) -> None:
        """Make `num_samples` rows of each prompt, with room for `max_tokens` more."""
        num_prompts = self.prompts.shape[2]
        self.groups = [p for p in range(num_prompts) for _ in range(num_samples)]
        self.is_shared = num_samples > 1 and self.length >= MIN_SHARED_TOKENS
        start = 0 if self.is_shared else self.length
        shape = (len(self.groups), self.kv_heads, start + max_tokens, self.head_size)
        self.rows = self.prompts.new_empty((len(self.prompts), 2, *shape))
        self.row_bias: Tensor | None = None
        if not self.is_shared:
            by_prompt = self.rows.unflatten(2, (num_prompts, num_samples))
            by_prompt[..., :start, :] = self.prompts.unsqueeze(3)
            if self.prompt_bias is not None:
                self.row_bias = F.pad(self.prompt_bias, (0, max_tokens))[self.groups]
        self.length = start
        self._place()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append one token's [B, heads, size] states to every row and return its attention."""
        keys, values = self.rows[layer].unbind(0)
        keys[:, :, self.length], values[:, :, self.length] = k, v
        keys, values = (x[:, :, : self.length + 1] for x in (keys, values))
        query = q.view(len(q), self.kv_heads, -1, self.head_size)
        if not self.is_shared:
            bias = None if self.row_bias is None else self.row_bias[..., : self.length + 1]
            out = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
            return out.reshape(len(q), -1)
        own, own_lse = _attention(query, keys, values, None)
        prompts, prompts_lse = self._attend_prompts(layer, query)
        share = torch.sigmoid(prompts_lse - own_lse)[..., None].to(q.dtype)
        return own.lerp(prompts, share).reshape(len(q), -1)

    def keep(self, order: Sequence[int]) -> None:
        """Keep the rows in `order`: every one in its own place or in that of a dropped one."""
        self.rows = compacted(self.rows, order, self.length)
        self.groups = [self.groups[row] for row in order]
        if self.row_bias is not None:
            self.row_bias = self.row_bias[order]
        self._place()

    def _attend_prompts(self, layer: int, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return [B, heads, queries, size] and log-sum-exps, a group's rows read side by side."""
        keys, values = self.prompts[layer].unbind(0)
        num_groups, heads, _, size = keys.shape
        shape = (num_groups, -1, heads, query.shape[2])
        side_by_side = query[self.slots].view(*shape, size).transpose(1, 2).flatten(2, 3)
        out, lse = _attention(side_by_side, keys, values, self.prompt_bias)
        out = out.view(num_groups, heads, -1, query.shape[2], size).transpose(1, 2)
        lse = lse.reshape(num_groups, heads, -1, query.shape[2]).transpose(1, 2)
        return out.flatten(0, 1)[self.places], lse.flatten(0, 1)[self.places]

    def _place(self) -> None:
        """Work out which rows each group still has; drop the prompts of groups that have none."""
        if not self.is_shared:
            return
        live = set(self.groups)
        num_groups = self.prompts.shape[2]
        if len(live) < num_groups:
            order = without([group not in live for group in range(num_groups)])
            self.prompts = compacted(self.prompts, order, self.prompts.shape[-2])
            if self.prompt_bias is not None:
                self.prompt_bias = self.prompt_bias[order]
            self.groups = [order.index(group) for group in self.groups]
        siblings: list[list[int]] = [[] for _ in live]
        for row, group in enumerate(self.groups):
            siblings[group].append(row)
        width = max(map(len, siblings))
        slots = [row for rows in siblings for row in rows + [0] * (width - len(rows))]
        places = [0] * len(self.groups)
        for group, rows in enumerate(siblings):
            for i, row in enumerate(rows):
                places[row] = group * width + i
        self.slots, self.places = torch.tensor(slots), torch.tensor(places)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention and its [rows, heads, queries] log-sum-exps in fp32."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = attention(q, k, v, 0.0, False, attn_mask=bias)
    return out, lse
