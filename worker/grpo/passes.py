"""Passes through the model that fit: done again with fewer tokens each where memory ran out."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from worker.grpo.gate import SamplerGate
from worker.grpo.memory import Memory, shortened, tried
from worker.grpo.rollout import Interrupt
from worker.grpo.types import Group, Prompt
from worker.grpo.update import Updater

T = TypeVar("T")


class Passes:
    """What the updater and the gate compute, in parts as large as the run has found to fit."""

    def __init__(
        self, memory: Memory, updater: Updater, gate: SamplerGate, interrupt: Interrupt
    ) -> None:
        self.memory = memory
        self.updater = updater
        self.gate = gate
        self.interrupt = interrupt

    def over_prompts(self, prompts: Sequence[Prompt], attempt: Callable[[], T]) -> T:
        """Return what `attempt` does, whose sequences are about as long as these prompts."""
        rows = [len(prompt.ids) for prompt in prompts]
        return self._fitting(attempt, rows, lambda num_tokens: False)

    def over(self, groups: Sequence[Group], attempt: Callable[[], T]) -> T:
        """Return what `attempt` does with the groups' sequences; it starts anew each time."""
        rows = [len(g.prompt.ids) + len(r.completion_ids) for g in groups for r in g.rollouts]
        return self._fitting(
            attempt,
            rows or [1],
            lambda num_tokens: tried(lambda: self._rehearse(groups, num_tokens)),
        )

    def _fitting(
        self, attempt: Callable[[], T], rows: Sequence[int], fits: Callable[[int], bool]
    ) -> T:
        def bounded() -> T:
            limit = self.memory.budgets.micro_batch_tokens
            self.updater.micro_batch_tokens = self.gate.micro_batch_tokens = limit
            return attempt()

        return self.memory.train(bounded, rows=rows, fits=fits)

    def _rehearse(self, groups: Sequence[Group], num_tokens: int) -> None:
        """Compute the gradient of one rollout of about `num_tokens`, and forget it."""
        try:
            work = self.updater.prepare(shortened(groups, num_tokens))
            constants = self.updater.constants(work, self.interrupt)
            self.updater.backward(work, constants, interrupt=self.interrupt, progress=lambda: None)
        finally:
            self.updater.optimizer.zero_grad()
