"""What the engine works on: a request, and each answer to it as its tokens come."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from jobs.errors import HonedError
from jobs.request_id import request_id
from jobs.serving import ChatTask, Delta, Finished, FinishReason, Sampling
from worker.serving.answer import Answer
from worker.serving.hosted import BASE, HostedModel
from worker.serving.prompt import max_tokens, prompt_ids

Emit = Callable[[Delta | Finished | HonedError], None]


@dataclass(frozen=True)
class Adapter:
    name: str
    folder: Path


@dataclass(eq=False)
class Generation:
    """One request: a prompt and `sampling.n` answers to it. `emit` is called by the engine."""

    model: HostedModel
    prompt_ids: list[int]
    adapter: Adapter | None
    sampling: Sampling
    max_tokens: int
    tools: list[dict[str, Any]]
    emit: Emit
    is_cancelled: bool = False
    """Set by whoever no longer wants it; the engine drops its rows before their next token."""
    request_id: str = field(default_factory=request_id.get)
    """Of whoever makes it, for the engine's log."""

    @property
    def adapter_name(self) -> str:
        return self.adapter.name if self.adapter else BASE


class Choice:
    """One answer of a generation: a row of a batch, or waiting to be one."""

    def __init__(self, generation: Generation, index: int) -> None:
        asked = generation.sampling
        self.generation = generation
        self.ids: list[int] = []
        # Each choice has numbers of its own, whoever else is in the batch.
        self.random = (
            random.Random() if asked.seed is None else random.Random(f"{asked.seed}:{index}")
        )
        self.answer = Answer(
            generation.model.renderer,
            generation.prompt_ids,
            index=index,
            stop=asked.stop,
            tools=generation.tools,
            top_logprobs=asked.top_logprobs,
        )

    def accept(self, token: int, logprobs_V: torch.Tensor | None) -> bool:
        """Take the next token and tell of it; True when it was the last."""
        self.ids.append(token)
        if token in self.generation.model.eos_ids:
            self.answer.num_tokens += 1
            return self._finish("stop")
        delta = self.answer.push(token, logprobs_V)
        if delta is not None:
            self.generation.emit(delta)
        if self.answer.is_stopped:
            return self._finish("stop")
        if len(self.ids) == self.generation.max_tokens:
            return self._finish("length")
        return False

    def _finish(self, reason: FinishReason) -> bool:
        delta = self.answer.end()
        if delta is not None:
            self.generation.emit(delta)
        if self.answer.is_stopped or self.answer.tool_calls:
            reason = "tool_calls" if self.answer.tool_calls else "stop"
        self.generation.emit(
            Finished(
                index=self.answer.index,
                finish_reason=reason,
                tool_calls=self.answer.tool_calls,
                completion_tokens=self.answer.num_tokens,
                reasoning_tokens=self.answer.num_reasoning_tokens,
            )
        )
        return True


def generation_of(
    task: ChatTask, model: HostedModel, *, adapter: Adapter | None, emit: Emit
) -> Generation:
    """The task as the engine takes it. Raises BadRequest where the model cannot take it."""
    ids = prompt_ids(model.renderer, task)
    return Generation(
        model=model,
        prompt_ids=ids,
        adapter=adapter,
        sampling=task.sampling,
        max_tokens=max_tokens(model.renderer, len(ids), task.sampling.max_tokens),
        tools=task.tools or [],
        emit=emit,
    )
