"""The rows that are being extended, a token at a time: their cache, their mask, their positions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from worker.grpo.batch import pad_left
from worker.grpo.cache import GroupCache
from worker.grpo.forward import positions
from worker.grpo.fused import FusedDecoder, fits
from worker.grpo.policy import Policy
from worker.grpo.shared_cache import SharedCache
from worker.grpo.types import Prompt


class Batch(Protocol):
    """Rows in order of prompt, then sample; `logits_BV` predicts each one's next token."""

    logits_BV: Tensor

    def advance(self, ids_B: Tensor) -> None:
        """Append one token to every row."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """Drop all rows but those in `order`, which `without` has made."""
        ...


class Start(Protocol):
    """What computes each prompt once and makes a batch of `num_samples` rows of each."""

    def __call__(
        self, prompts: Sequence[Prompt], *, num_samples: int, max_tokens: int
    ) -> Batch: ...


@dataclass(frozen=True, slots=True)
class Decoding:
    """A phase of drawing with one reading of the weights."""

    start: Start
    fingerprint: str
    """Of the adapter's weights that were read: it stays with what was made of them."""


@contextmanager
def decoding(policy: Policy) -> Iterator[Decoding]:
    """Within it no weight may change and no gradient is taken; yields what starts batches."""
    if fits(policy):
        with torch.no_grad():
            decoder = FusedDecoder(policy)
            yield Decoding(partial(FusedBatch, decoder), decoder.fingerprint)
    else:
        with policy.sampling():
            yield Decoding(partial(DecodeBatch, policy), policy.adapter_fingerprint())


class FusedBatch:
    """A `Batch` of a decoder of the Llama shape."""

    def __init__(
        self, decoder: FusedDecoder, prompts: Sequence[Prompt], *, num_samples: int, max_tokens: int
    ) -> None:
        self.decoder = decoder
        lengths = [len(prompt.ids) for prompt in prompts]
        num_prompts, longest = len(prompts), max(lengths)
        self.cache = SharedCache(
            lengths,
            num_layers=len(decoder.layers),
            kv_heads=decoder.kv_heads,
            head_size=decoder.head_size,
            dtype=decoder.dtype,
        )
        self.cos, self.sin = decoder.rotation(longest + max_tokens)
        ids_PL = [prompt.ids + [0] * (longest - len(prompt.ids)) for prompt in prompts]
        last_P = [row * longest + length - 1 for row, length in enumerate(lengths)]
        hidden_PH = decoder.hidden(
            torch.tensor(ids_PL).flatten(),
            (
                self.cos[:longest].repeat(num_prompts, 1, 1),
                self.sin[:longest].repeat(num_prompts, 1, 1),
            ),
            self.cache.read,
            wanted=torch.tensor(last_P),
        )
        self.cache.spread(num_samples, max_tokens)
        rows = torch.arange(num_prompts).repeat_interleave(num_samples)
        self.position_B = torch.tensor(lengths)[rows]
        self.logits_BV = decoder.head(hidden_PH)[rows]

    def advance(self, ids_B: Tensor) -> None:
        """Meet `Batch.advance`."""
        rotation = (self.cos[self.position_B], self.sin[self.position_B])
        hidden_BH = self.decoder.hidden(ids_B, rotation, self.cache.attend)
        self.cache.length += 1
        self.position_B = self.position_B + 1
        self.logits_BV = self.decoder.head(hidden_BH)

    def keep(self, order: Sequence[int]) -> None:
        """Meet `Batch.keep`."""
        self.cache.keep(order)
        self.position_B = self.position_B[order]


class DecodeBatch:
    """A `Batch` of any architecture: of the Hugging Face modules themselves."""

    def __init__(
        self, policy: Policy, prompts: Sequence[Prompt], *, num_samples: int, max_tokens: int
    ) -> None:
        """Compute each prompt once and spread its state over `num_samples` rows."""
        ids_PL = pad_left([prompt.ids for prompt in prompts]).to(policy.device)
        mask_PL = pad_left([[True] * len(prompt.ids) for prompt in prompts]).to(policy.device)
        num_prompts, self.length = ids_PL.shape
        self.policy = policy
        self.cache = GroupCache(policy.base.config, capacity=self.length)
        self.is_padded = not bool(mask_PL.all())
        hidden_PLH = policy.decoder(
            input_ids=ids_PL,
            attention_mask=mask_PL if self.is_padded else None,
            position_ids=positions(mask_PL),
            use_cache=True,
            **{policy.cache_argument: self.cache},
        ).last_hidden_state
        rows = torch.arange(num_prompts, device=policy.device).repeat_interleave(num_samples)
        self.cache.spread(rows, capacity=self.length + max_tokens)
        self.mask_BL = torch.cat([mask_PL, mask_PL.new_ones(num_prompts, max_tokens)], dim=1)[rows]
        self.next_position_B = mask_PL.sum(dim=1)[rows]
        self.logits_BV = policy.head(hidden_PLH[:, -1])[rows]

    def advance(self, ids_B: Tensor) -> None:
        """Append one token to every row."""
        self.length += 1
        hidden_B1H = self.policy.decoder(
            input_ids=ids_B[:, None],
            attention_mask=self.mask_BL[:, : self.length] if self.is_padded else None,
            position_ids=self.next_position_B[:, None],
            use_cache=True,
            **{self.policy.cache_argument: self.cache},
        ).last_hidden_state
        self.next_position_B = self.next_position_B + 1
        self.logits_BV = self.policy.head(hidden_B1H[:, -1])

    def keep(self, order: Sequence[int]) -> None:
        """Drop all rows but those in `order`, which `without` has made."""
        index = torch.tensor(order, device=self.policy.device)
        self.cache.keep(index)
        self.mask_BL = self.mask_BL[index]
        self.next_position_B = self.next_position_B[index]
