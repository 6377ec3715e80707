"""An answer of chat on the wire: OpenAI's completion, and its chunks when it is streamed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.serving import ContentLogprob, FinishReason

# A field that OpenAI leaves out of an answer where it has nothing to say; others are null there.
LEFT_OUT = Field(exclude_if=lambda value: value is None)


class CalledFunction(BaseModel):
    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ToolCallChunk(ToolCall):
    index: int


class Logprobs(BaseModel):
    content: list[ContentLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: Annotated[list[ToolCall] | None, LEFT_OUT] = None
    reasoning_content: Annotated[str | None, LEFT_OUT] = None
    """What the model thought before it answered, where it does."""


class Choice(BaseModel):
    index: int
    finish_reason: FinishReason
    message: AnswerMessage
    logprobs: Logprobs | None


class TokenDetails(BaseModel):
    reasoning_tokens: int


class Usage(BaseModel):
    """Tokens: the prompt's once, and every one that was drawn for any of the choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: TokenDetails


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str


class DeltaMessage(BaseModel):
    """What is new, and nothing else: the last one of an answer is empty."""

    role: Annotated[Literal["assistant"] | None, LEFT_OUT] = None
    content: Annotated[str | None, LEFT_OUT] = None
    reasoning_content: Annotated[str | None, LEFT_OUT] = None
    tool_calls: Annotated[list[ToolCallChunk] | None, LEFT_OUT] = None


class ChunkChoice(BaseModel):
    index: int
    delta: DeltaMessage
    finish_reason: FinishReason | None = None
    logprobs: Logprobs | None = None


class ChatCompletionChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str
