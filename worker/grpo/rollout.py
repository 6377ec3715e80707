"""Drawing completions: the interface any sampler meets, token ids in and token ids out."""

from collections.abc import Callable, Sequence
from typing import Protocol

from worker.grpo.types import Prompt, Rollout

OnFinished = Callable[[Rollout], None]
Interrupt = Callable[[], None]


class Sampler(Protocol):
    """What draws rollouts for the trainer; another engine can stand in by meeting this."""

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
        """Return `num_samples` rollouts of each prompt, in order; the same seed draws the same.

        `temperature` 0 is greedy (log-probs are then those at temperature 1). `on_finished` gets
        each rollout as soon as it ends; `interrupt` is called at every decode step and what it
        raises goes through.
        """
        ...

    def adapter_fingerprint(self) -> str:
        """Return the fingerprint of the adapter that the last `sample` drew with.

        Of the weights as they were read for it, and empty before the first: a sampler that draws
        with a copy tells what it copied, not what the policy has by now.
        """
        ...
