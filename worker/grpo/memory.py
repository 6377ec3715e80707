"""Running out of memory: told from other errors, and answered with fewer tokens at a time.

Neither a step's gradient nor what a row draws depends on how many tokens are computed at a time,
so what did not fit is done again in smaller parts, and the run goes on with those. Only where one
sequence alone is too much does it end, with the length that would fit.
"""

import gc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from worker.grpo.counts import known_fields
from worker.grpo.errors import OutOfMemory
from worker.grpo.rollout import Interrupt, OnFinished, Sampler
from worker.grpo.types import Group, Prompt, Rollout

# What allocators on the CPU say: torch's own and the C++ library's.
SENTENCES = ("can't allocate memory", "bad_alloc")

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device or the machine had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(one in str(error) for one in SENTENCES)


@runtime_checkable
class BoundedSampler(Sampler, Protocol):
    """A sampler whose rows at a time can be bounded."""

    max_cache_tokens: int


@dataclass(slots=True)
class Budgets:
    """Most tokens at a time. They only become smaller, and are part of the training state."""

    micro_batch_tokens: int
    cache_tokens: int | None
    """None for a sampler that has no such bound."""
    num_halvings: int = 0


class Memory:
    """Does a run's work in parts that fit, and remembers how large those may be."""

    def __init__(
        self, sampler: Sampler, micro_batch_tokens: int = 0, *, note: Callable[[str], None]
    ) -> None:
        """`note` gets a sentence for the job's owner each time the parts become smaller.

        Without `micro_batch_tokens` there is only sampling to do.
        """
        self._bounded = sampler if isinstance(sampler, BoundedSampler) else None
        self.budgets = Budgets(
            micro_batch_tokens, self._bounded.max_cache_tokens if self._bounded else None
        )
        self._most: dict[str, int] = {}
        self.note = note
        self.sampler: Sampler = PatientSampler(self._bounded, self) if self._bounded else sampler

    def train(self, attempt: Callable[[], T], *, rows: Sequence[int], fits: "Fits") -> T:
        """Return what `attempt` does; again with half the tokens a pass when they do not fit.

        `attempt` starts anew each time. `rows` are the tokens of each sequence it works on, and
        `fits(n)` is asked whether one of n tokens fits when the longest does not. Raises
        `OutOfMemory`.
        """
        while True:
            done, reason = _tried(attempt)
            if reason is None:
                return done[0]
            longest, used = max(rows), min(self.budgets.micro_batch_tokens, sum(rows))
            if used <= longest:
                raise too_long("Training on", longest, largest_that_fits(fits, longest), reason)
            self.budgets.micro_batch_tokens = max(longest, used // 2)
            self._tell("training", used, self.budgets.micro_batch_tokens)

    def shrink_cache(self, *, row: int, num_rows: int) -> bool:
        """Halve what is sampled at a time; False when that was no more than one row of tokens."""
        assert self._bounded is not None
        used = min(self._bounded.max_cache_tokens, row * num_rows)
        if used <= row:
            return False
        self._bounded.max_cache_tokens = self.budgets.cache_tokens = max(row, used // 2)
        self._tell("sampling", used, self.budgets.cache_tokens)
        return True

    def _tell(self, phase: str, used: int, allowed: int) -> None:
        self.budgets.num_halvings += 1
        self.note(
            f"Memory ran out while {phase} with {used:,} tokens at a time: the step is done again, "
            f"and the job goes on, with at most {allowed:,}. Its results are the same."
        )

    def metrics(self) -> dict[str, float | None]:
        """Return how often the budgets had to be halved, and where they were, what they are."""
        if not self.budgets.num_halvings:
            return {"memory/num_halvings": 0}
        return {f"memory/{name}": value for name, value in asdict(self.budgets).items()}

    def bound(self, most: Mapping[str, int]) -> None:
        """Let parts be no larger than this, from now on and after `restore`: they were too much."""
        self._most = dict(most)
        self.restore(self.budgets)

    def parse(self, saved: dict[str, Any] | None) -> Budgets:
        """Return what `asdict` made of the budgets of an earlier process, if it kept any.

        A budget that is not there, as in another release's, is what it is now.
        """
        return replace(self.budgets, **known_fields(Budgets, saved or {}))

    def restore(self, budgets: Budgets) -> None:
        """Take up what `parse` returned, or less where there is a bound."""
        known = {n: v for n, v in asdict(budgets).items() if n in self._most and v is not None}
        lower = {n: self._most[n] for n, v in known.items() if self._most[n] < v}
        self.budgets = replace(budgets, **lower, num_halvings=budgets.num_halvings + bool(lower))
        if self._bounded is not None and self.budgets.cache_tokens is not None:
            self._bounded.max_cache_tokens = self.budgets.cache_tokens


class PatientSampler:
    """A `Sampler` that asks another one again, for fewer rows at a time, when memory runs out."""

    def __init__(self, sampler: BoundedSampler, memory: Memory) -> None:
        self._sampler = sampler
        self._memory = memory

    def adapter_fingerprint(self) -> str:
        """Meet `Sampler.adapter_fingerprint`."""
        return self._sampler.adapter_fingerprint()

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
        """Meet `Sampler.sample`. Raises `OutOfMemory` when one row alone is too much."""

        def attempt(
            prompts: Sequence[Prompt], num_samples: int, max_tokens: int, on_finished: OnFinished
        ) -> list[list[Rollout]]:
            return self._sampler.sample(
                prompts,
                num_samples=num_samples,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
                on_finished=on_finished,
                interrupt=interrupt,
            )

        longest = max(prompts, key=lambda prompt: len(prompt.ids))
        row = len(longest.ids) + max_tokens
        given = Given(prompts, on_finished)
        while True:
            given.restart()
            done, reason = _tried(lambda: attempt(prompts, num_samples, max_tokens, given.finish))
            if reason is None:
                return given.in_place_of(done[0])
            if not self._memory.shrink_cache(row=row, num_rows=len(prompts) * num_samples):

                def fits(num_tokens: int) -> bool:
                    ids = longest.ids[: max(1, num_tokens - 1)]
                    one = Prompt(longest.index, ids, longest.payload)
                    room = num_tokens - len(ids)
                    return _tried(lambda: attempt([one], 1, room, lambda _: None))[1] is None

                raise too_long("Sampling", row, largest_that_fits(fits, row), reason)


class Given:
    """Completions that somebody has already been given, when they are drawn once more.

    A draw is the same however many rows are beside it, but for rounding; what was graded, and maybe
    paid for, is kept, so that what is trained is what was graded.
    """

    def __init__(self, prompts: Sequence[Prompt], on_finished: OnFinished) -> None:
        self._visits = Counter(prompt.index for prompt in prompts)
        self._on_finished = on_finished
        self._given: list[Rollout] = []
        self.restart()

    def restart(self) -> None:
        """Everything is about to be drawn (again)."""
        self._kept = list(self._given)
        self._drawn: Counter[tuple[int, int]] = Counter()
        self._instead: dict[int, Rollout] = {}

    def finish(self, rollout: Rollout) -> None:
        """Pass a completion on, unless it is one that was given before."""
        key = (rollout.prompt_index, rollout.sample_index)
        kept = [one for one in self._kept if (one.prompt_index, one.sample_index) == key]
        num_to_come = self._visits[rollout.prompt_index] - self._drawn[key]
        self._drawn[key] += 1
        same = [one for one in kept if one.completion_ids == rollout.completion_ids]
        # Each of those that were given stands for one of those that come, if need be for another.
        if same or (kept and len(kept) == num_to_come):
            one = (same or kept)[0]
            self._kept = [other for other in self._kept if other is not one]
            self._instead[id(rollout)] = one
        else:
            self._given.append(rollout)
            self._on_finished(rollout)

    def in_place_of(self, groups: list[list[Rollout]]) -> list[list[Rollout]]:
        """Return the groups with the completions that were given in the place of their doubles."""
        return [[self._instead.get(id(one), one) for one in group] for group in groups]


Fits = Callable[[int], bool]


def largest_that_fits(fits: Fits, too_much: int) -> int:
    """Return the largest of a half, a quarter, ... of `too_much` that fits; 0 when none does."""
    num_tokens = too_much // 2
    while num_tokens > 1:
        if fits(num_tokens):
            return num_tokens
        num_tokens //= 2
    return 0


def shortened(groups: Sequence[Group], num_tokens: int) -> list[Group]:
    """Return the longest rollout, cut to about `num_tokens`, as a group that has signal."""
    rows = [(group, rollout) for group in groups for rollout in group.rollouts]
    if not rows:
        return []
    group, rollout = max(rows, key=lambda row: len(row[0].prompt.ids) + len(row[1].completion_ids))
    prompt_ids = group.prompt.ids[: max(1, num_tokens - 1)]
    kept = slice(0, max(1, num_tokens - len(prompt_ids)))
    one = replace(
        rollout,
        completion_ids=rollout.completion_ids[kept],
        sampler_logprobs=rollout.sampler_logprobs[kept],
        loss_mask=rollout.loss_mask[kept],
    )
    return [Group(replace(group.prompt, ids=prompt_ids), [one], group.graded[:1], [1.0])]


def tried(attempt: Callable[[], object]) -> bool:
    """Return whether something fits in memory; every other error goes through."""
    return _tried(attempt)[1] is None


def _tried(attempt: Callable[[], T]) -> tuple[list[T], str | None]:
    """What it returned, or in what words memory ran out. Nothing of what it held is held then."""
    try:
        return [attempt()], None
    except OutOfMemory:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    # The frames of the error are gone, and with them all but what refers to itself.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [], reason


def too_long(doing: str, longest: int, fitting: int, reason: str) -> OutOfMemory:
    """Return the error that ends a run in which one sequence alone does not fit."""
    advice = (
        f"One of {fitting:,} tokens fits: lower max_completion_tokens, or leave out long prompts"
        if fitting
        else "Not even a few tokens fit beside the model: take a smaller model, or a larger device"
    )
    return OutOfMemory(
        f"{doing} a single sequence of {longest:,} tokens needs more memory than there is. "
        f"{advice}. ({reason})"
    )
