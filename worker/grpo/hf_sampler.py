"""Rollouts from the Hugging Face model that is being trained: no second copy, no re-encoding.

A prompt is computed once and its state spread over its group; a finished row leaves the batch at
once, so that no token is computed that nobody will read.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.grpo.cache import cache_bytes
from worker.grpo.compaction import without
from worker.grpo.decode import Start, decoding
from worker.grpo.errors import NonFiniteLogprobs
from worker.grpo.logprobs import CHUNK_LOGITS
from worker.grpo.policy import Policy
from worker.grpo.rollout import Interrupt, OnFinished
from worker.grpo.rotation import check_room
from worker.grpo.types import FinishReason, Prompt, Rollout

# Room for keys and values while sampling; what it does not hold at once comes one after another.
MAX_CACHE_BYTES = {"cpu": 2 << 30, "cuda": 16 << 30}


class HfSampler:
    """A `Sampler` over the policy's own modules, adapter and all."""

    def __init__(
        self, policy: Policy, *, eos_ids: Iterable[int], max_cache_bytes: int | None = None
    ) -> None:
        """Each of `eos_ids` ends a completion; `max_cache_bytes` bounds the rows at a time."""
        self.policy = policy
        self.eos_ids = frozenset(eos_ids)
        max_bytes = max_cache_bytes or MAX_CACHE_BYTES[policy.device.type]
        self.max_cache_tokens = max_bytes // cache_bytes(policy.base.config, policy.dtype)
        self._fingerprint = ""

    def bound(self, cache_tokens: int | None) -> None:
        """Bound the tokens of rows at a time; None leaves the bound that there is."""
        self.max_cache_tokens = cache_tokens or self.max_cache_tokens

    def adapter_fingerprint(self) -> str:
        """Meet `Sampler.adapter_fingerprint`."""
        return self._fingerprint

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        num_samples: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_finished: OnFinished,
        interrupt: Interrupt,
    ) -> list[list[Rollout]]:
        """Meet `Sampler.sample`. What a row draws does not depend on the rows beside it."""
        check_room(self.policy.base.config, prompts, max_tokens)
        # One number a token, all drawn before the first: whichever rows leave the batch, those
        # that stay meet the same numbers.
        generator = torch.Generator().manual_seed(seed)
        shape = (len(prompts), num_samples, max_tokens)
        uniforms_PGT = torch.rand(shape, dtype=torch.float64, generator=generator)

        drafts = [[_Draft(p.index, sample) for sample in range(num_samples)] for p in prompts]
        with decoding(self.policy) as phase:
            self._fingerprint = phase.fingerprint
            for chunk, samples in self._chunks(prompts, num_samples, max_tokens):
                interrupt()
                for ended in self._decode(
                    phase.start,
                    [prompts[i] for i in chunk],
                    [draft for i in chunk for draft in drafts[i][samples]],
                    uniforms_PGT[chunk][:, samples].flatten(0, 1),
                    temperature,
                ):
                    for draft in ended:
                        on_finished(draft.finish(self.eos_ids))
                    interrupt()
        return [[draft.rollout for draft in group if draft.rollout] for group in drafts]

    def _chunks(
        self, prompts: Sequence[Prompt], num_samples: int, max_tokens: int
    ) -> Iterator[tuple[list[int], slice]]:
        """Yield prompts, like lengths together, with those of their samples whose cache fits.

        A group that does not fit by itself comes in parts.
        """
        chunk: list[int] = []
        whole = slice(0, num_samples)
        for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids)):
            row = len(prompts[i].ids) + max_tokens
            if chunk and (len(chunk) + 1) * num_samples * row > self.max_cache_tokens:
                yield chunk, whole
                chunk = []
            at_a_time = max(1, self.max_cache_tokens // row)
            if at_a_time < num_samples:
                for start in range(0, num_samples, at_a_time):
                    yield [i], slice(start, start + at_a_time)
            else:
                chunk.append(i)
        if chunk:
            yield chunk, whole

    def _decode(
        self,
        start: Start,
        prompts: Sequence[Prompt],
        live: list["_Draft"],
        uniforms_BT: Tensor,
        temperature: float,
    ) -> Iterator[list["_Draft"]]:
        """Extend `live`, one draft a row, until all have ended; yield those each token ended."""
        num_rows, max_tokens = uniforms_BT.shape
        num_samples = num_rows // len(prompts)
        batch = start(prompts, num_samples=num_samples, max_tokens=max_tokens)
        uniforms_BT = uniforms_BT.to(batch.logits_BV.device)
        rows_B = torch.arange(num_rows, device=batch.logits_BV.device)
        for t in range(max_tokens):
            ids_B, logprobs_B = draw(batch.logits_BV, uniforms_BT[rows_B, t], temperature)
            ended = []
            for draft, token, logprob in zip(
                live, ids_B.tolist(), logprobs_B.tolist(), strict=True
            ):
                draft.ids.append(token)
                draft.logprobs.append(logprob)
                ended.append(token in self.eos_ids or t + 1 == max_tokens)
            yield [draft for draft, has_ended in zip(live, ended, strict=True) if has_ended]
            if all(ended):
                return
            if any(ended):
                order = without(ended)
                batch.keep(order)
                live = [live[row] for row in order]
                ids_B, rows_B = ids_B[order], rows_B[order]
            batch.advance(ids_B)


@dataclass(slots=True)
class _Draft:
    """A completion while it is being drawn."""

    prompt_index: int
    sample_index: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    rollout: Rollout | None = None

    def finish(self, eos_ids: frozenset[int]) -> Rollout:
        if not math.isfinite(sum(self.logprobs)):
            raise NonFiniteLogprobs
        reason: FinishReason = "stop" if self.ids[-1] in eos_ids else "length"
        self.rollout = Rollout(
            self.prompt_index,
            self.sample_index,
            self.ids,
            self.logprobs,
            reason,
            [True] * len(self.ids),
        )
        return self.rollout


def draw(logits_BV: Tensor, uniforms_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return [B] ids and their [B] fp32 log-probs at `temperature`; 0 takes the likeliest.

    The id is where the cumulative distribution passes the uniform number, so a draw is a function
    of one number and the row's own logits, and so many rows are drawn at a time as memory is for.
    """
    rows = max(1, CHUNK_LOGITS // logits_BV.shape[1])
    chunks = zip(logits_BV.split(rows), uniforms_B.split(rows), strict=True)
    ids, logprobs = zip(*(_draw(*chunk, temperature) for chunk in chunks), strict=True)
    return torch.cat(ids), torch.cat(logprobs)


def _draw(logits_BV: Tensor, uniforms_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
    all_logprobs_BV = (logits_BV / (temperature or 1.0)).log_softmax(dim=-1)
    if temperature == 0:
        ids_B1 = all_logprobs_BV.argmax(dim=-1, keepdim=True)
    else:
        cumulative_BV = all_logprobs_BV.exp().cumsum(dim=-1, dtype=torch.float64)
        passed_B1 = uniforms_B[:, None] * cumulative_BV[:, -1:]
        ids_B1 = torch.searchsorted(cumulative_BV, passed_B1, right=True)
        ids_B1 = ids_B1.clamp(max=logits_BV.shape[1] - 1)
    return ids_B1.squeeze(1), all_logprobs_BV.gather(1, ids_B1).squeeze(1)
