"""The rows that are being extended, a token at a time: their cache, their mask, their positions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.grpo.batch import pad_left
from worker.grpo.cache import GroupCache
from worker.grpo.forward import positions
from worker.grpo.policy import Policy
from worker.grpo.types import Prompt


class DecodeBatch:
    """Rows in order of prompt, then sample; `logits_BV` predicts each one's next token."""

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
            past_key_values=self.cache,
            use_cache=True,
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
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.next_position_B = self.next_position_B + 1
        self.logits_BV = self.policy.head(hidden_B1H[:, -1])

    def keep(self, order: Sequence[int]) -> None:
        """Drop all rows but those in `order`, which `without` has made."""
        index = torch.tensor(order, device=self.policy.device)
        self.cache.keep(index)
        self.mask_BL = self.mask_BL[index]
        self.next_position_B = self.next_position_B[index]


def without(ended: list[bool]) -> list[int]:
    """Return an order of the rows that have not ended which moves as few of them as it can.

    The last rows move into the places of ended ones, so the rest of the cache stays where it is.
    """
    num_live = ended.count(False)
    movers = [row for row in range(num_live, len(ended)) if not ended[row]]
    return [movers.pop() if ended[row] else row for row in range(num_live)]
