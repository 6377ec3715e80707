"""What the service and the serving process must agree on: where it listens, and what is asked.

The answer is a stream of JSON lines, each one of the records at the end; an empty line says that
the process lives and has nothing to tell yet. A fault before the first line is an HTTP status with
the error envelope; after it, a line with that envelope.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.settings import Settings
from jobs.thinking import ChatEffort

# Between two lines of an answer while a model loads, or while others' tokens come first.
KEEP_ALIVE_SECONDS = 5.0
# Without a line for this long the process hangs.
SILENCE_SECONDS = 60.0

CHAT_PATH = "/chat"
SCORE_PATH = "/score"
EMBED_PATH = "/embed"
LIVE_PATH = "/live"


@dataclass(frozen=True)
class Address:
    """Where the serving process answers, and the token without which it does not."""

    url: str
    token: str


def address(settings: Settings) -> Address | None:
    """The serving process as the operator names it, or as it wrote itself down; None if neither."""
    if settings.serving_url:
        return Address(settings.serving_url.rstrip("/"), settings.serving_token)
    try:
        found = json.loads(_address_path(settings).read_text())
    except FileNotFoundError:
        return None
    return Address(found["url"], found["token"])


def write_address(settings: Settings, here: Address) -> None:
    """Say to the service on this machine where this process answers; to nobody else."""
    path = _address_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"url": here.url, "token": here.token}, file)
    partial.replace(path)


def want(settings: Settings) -> None:
    """Ask `honed up` for the serving process, which it then keeps."""
    path = wanted_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def wanted_path(settings: Settings) -> Path:
    """The file whose presence asks `honed up` to start the serving process."""
    return settings.run_dir / "serving.wanted"


def forget(settings: Settings) -> None:
    """Nothing serves here and nobody has asked yet: an earlier run's notes are void."""
    for path in (_address_path(settings), wanted_path(settings)):
        path.unlink(missing_ok=True)


def _address_path(settings: Settings) -> Path:
    return settings.run_dir / "serving.json"


class Served(BaseModel):
    """A base model, or an adapter on it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """As the client wrote it, for sentences."""
    base: dict[str, Any]
    """What validation pinned (`worker.hub.pin`), or `{"name": ...}` alone of a base by name."""
    adapter_id: str | None = None
    """The checkpoint's id."""
    adapter_folder: str | None = None
    """The published checkpoint, relative to the artifact store."""


class Sampling(BaseModel):
    """How tokens are drawn and when they end; every number is final."""

    model_config = ConfigDict(extra="forbid")

    max_tokens: int | None = None
    """None is as many as the context has room for."""
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stop: list[str] = Field(default_factory=list)
    seed: int | None = None
    top_logprobs: int | None = None
    """Alternatives a token; None gives no log-probs at all."""


class ChatTask(BaseModel):
    """One request to the serving process; the messages are in the chat template's form."""

    model_config = ConfigDict(extra="forbid")

    model: Served
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    reasoning_effort: ChatEffort | None = None
    sampling: Sampling = Field(default_factory=Sampling)


class ScoreTask(BaseModel):
    """Conversations for a reward model; the answer is a JSON list of numbers."""

    model_config = ConfigDict(extra="forbid")

    model: str
    conversations: list[list[dict[str, str]]]


class EmbedTask(BaseModel):
    """Texts for the sentence encoder; the answer is a JSON list of vectors."""

    model_config = ConfigDict(extra="forbid")

    texts: list[str]


FinishReason = Literal["stop", "length", "tool_calls"]


class Started(BaseModel):
    """The first line: the prompt was read and will be answered."""

    event: Literal["started"] = "started"
    prompt_tokens: int
    fingerprint: str
    """Equal for answers of the same weights by the same code."""


class TokenLogprob(BaseModel):
    """A token's log-prob under the model itself, whatever the temperature or top_p."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class Delta(BaseModel):
    """More of one choice's answer."""

    event: Literal["delta"] = "delta"
    index: int
    content: str = ""
    reasoning: str = ""
    logprobs: list[ContentLogprob] | None = None


class ToolCall(BaseModel):
    """A function that the answer asks to be called; `arguments` is JSON text."""

    name: str
    arguments: str


class Finished(BaseModel):
    """One choice has ended."""

    event: Literal["finished"] = "finished"
    index: int
    finish_reason: FinishReason
    tool_calls: list[ToolCall] = Field(default_factory=list)
    completion_tokens: int
    """Every token that was drawn, the one that ended the answer included."""
    reasoning_tokens: int


class Failed(BaseModel):
    """The last line of an answer that broke off."""

    event: Literal["failed"] = "failed"
    status: int
    error: dict[str, Any]
    """What the error envelope holds."""
    retry_after_seconds: int | None = None
    """Of a 503."""


Record = Annotated[Started | Delta | Finished | Failed, Field(discriminator="event")]
