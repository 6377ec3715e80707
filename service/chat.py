"""From the serving process's records to OpenAI's answer: gathered whole, or chunk by chunk."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from jobs.errors import HonedError
from jobs.serving import ContentLogprob, Delta, Finished, Record, Started
from service.wire.completions import (
    AnswerMessage,
    CalledFunction,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    DeltaMessage,
    Logprobs,
    TokenDetails,
    ToolCall,
    ToolCallChunk,
    Usage,
)


@dataclass
class _Counts:
    prompt_tokens: int
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, finished: Finished) -> None:
        self.completion_tokens += finished.completion_tokens
        self.reasoning_tokens += finished.reasoning_tokens

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
            completion_tokens_details=TokenDetails(reasoning_tokens=self.reasoning_tokens),
        )


@dataclass
class _Gathered:
    """One choice so far."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[ContentLogprob] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        self.content.append(delta.content)
        self.reasoning.append(delta.reasoning)
        self.logprobs += delta.logprobs or []

    def choice(self, finished: Finished, *, has_logprobs: bool) -> Choice:
        calls = _tool_calls(finished)
        content = "".join(self.content)
        return Choice(
            index=finished.index,
            finish_reason=finished.finish_reason,
            message=AnswerMessage(
                content=content or None if calls else content,
                tool_calls=calls or None,
                reasoning_content="".join(self.reasoning) or None,
            ),
            logprobs=Logprobs(content=self.logprobs) if has_logprobs else None,
        )


async def whole(
    started: Started, records: AsyncIterator[Record], *, model: str, n: int, has_logprobs: bool
) -> ChatCompletion:
    """The answer once all its choices have ended. Raises what broke it off."""
    counts = _Counts(started.prompt_tokens)
    gathered = [_Gathered() for _ in range(n)]
    choices: list[Choice] = []
    async for record in records:
        if isinstance(record, Delta):
            gathered[record.index].add(record)
        elif isinstance(record, Finished):
            counts.add(record)
            choices.append(gathered[record.index].choice(record, has_logprobs=has_logprobs))
    return ChatCompletion(
        id=_new_id(),
        created=int(time.time()),
        model=model,
        choices=sorted(choices, key=lambda choice: choice.index),
        usage=counts.usage(),
        system_fingerprint=started.fingerprint,
    )


async def chunks(
    started: Started, records: AsyncIterator[Record], *, model: str, n: int, has_usage: bool
) -> AsyncIterator[str]:
    """The answer as server-sent events. What breaks it off is its last chunk, in the envelope."""
    known = {
        "id": _new_id(),
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": started.fingerprint,
    }

    def event(*choices: ChunkChoice, usage: Usage | None = None) -> str:
        chunk = ChatCompletionChunk(**known, choices=list(choices), usage=usage)
        # A client that strictly reads the stream wants `usage` only where it was asked for.
        left_out = set() if has_usage else {"usage"}
        return _event(chunk.model_dump_json(exclude=left_out, exclude_unset=False))

    counts = _Counts(started.prompt_tokens)
    for index in range(n):
        yield event(ChunkChoice(index=index, delta=DeltaMessage(role="assistant", content="")))
    try:
        async for record in records:
            if isinstance(record, Delta):
                yield event(_chunk(record))
            elif isinstance(record, Finished):
                counts.add(record)
                yield event(_last_chunk(record))
    except HonedError as error:
        yield _event(json.dumps(error.envelope()))
        return
    if has_usage:
        yield event(usage=counts.usage())
    yield _event("[DONE]")


def _chunk(delta: Delta) -> ChunkChoice:
    return ChunkChoice(
        index=delta.index,
        delta=DeltaMessage(
            content=delta.content or None, reasoning_content=delta.reasoning or None
        ),
        logprobs=Logprobs(content=delta.logprobs) if delta.logprobs is not None else None,
    )


def _last_chunk(finished: Finished) -> ChunkChoice:
    calls = [
        ToolCallChunk(index=index, **call.model_dump())
        for index, call in enumerate(_tool_calls(finished))
    ]
    return ChunkChoice(
        index=finished.index,
        delta=DeltaMessage(tool_calls=calls or None),
        finish_reason=finished.finish_reason,
    )


def _tool_calls(finished: Finished) -> list[ToolCall]:
    return [
        ToolCall(
            id=f"call_{secrets.token_hex(12)}",
            function=CalledFunction(name=call.name, arguments=call.arguments),
        )
        for call in finished.tool_calls
    ]


def _event(data: str) -> str:
    return f"data: {data}\n\n"


def _new_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"
