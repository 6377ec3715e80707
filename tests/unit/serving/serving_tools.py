"""Hands that ask the engine, and ears for what comes of it."""

import threading
from dataclasses import dataclass, field

import torch

from jobs.errors import HonedError
from jobs.serving import ContentLogprob, Delta, Finished, Sampling
from worker.serving.engine import Engine
from worker.serving.generation import Adapter, Generation
from worker.serving.hosted import HostedModel


@dataclass
class Heard:
    """What came of one generation."""

    generation: Generation
    events: list[Delta | Finished | HonedError] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def hear(self, event: Delta | Finished | HonedError) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait(self) -> "Heard":
        """Until all its choices have ended, or it has failed."""
        with self.changed:
            assert self.changed.wait_for(self.is_over, timeout=60)
        return self

    def wait_for_text(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.events, timeout=60)

    def is_over(self) -> bool:
        return self.error is not None or len(self.ends) == self.generation.sampling.n

    @property
    def error(self) -> HonedError | None:
        return next((event for event in self.events if isinstance(event, HonedError)), None)

    @property
    def ends(self) -> dict[int, Finished]:
        return {event.index: event for event in self.events if isinstance(event, Finished)}

    def deltas(self, index: int = 0) -> list[Delta]:
        return [e for e in self.events if isinstance(e, Delta) and e.index == index]

    def text(self, index: int = 0) -> str:
        return "".join(delta.content for delta in self.deltas(index))

    def texts(self) -> list[str]:
        return [self.text(index) for index in range(self.generation.sampling.n)]

    def logprobs(self, index: int = 0) -> list[ContentLogprob]:
        return [one for delta in self.deltas(index) for one in delta.logprobs or []]


def ask(
    engine: Engine,
    model: HostedModel,
    prompt_ids: list[int],
    *,
    adapter: Adapter | None = None,
    max_tokens: int = 16,
    **sampling: object,
) -> Heard:
    """Submit a request; greedy unless it says otherwise."""
    generation = Generation(
        model=model,
        prompt_ids=prompt_ids,
        adapter=adapter,
        sampling=Sampling(**({"temperature": 0.0} | sampling)),
        max_tokens=max_tokens,
        tools=[],
        emit=lambda event: heard.hear(event),
    )
    heard = Heard(generation)
    engine.submit(generation)
    return heard


def prompt(seed: int, length: int) -> list[int]:
    """Random ids of ordinary tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(20, 598, (length,), generator=generator).tolist()
