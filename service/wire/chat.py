"""Chat completions on the wire: what may be asked, and OpenAI's answer, whole or in chunks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jobs import strict_json
from jobs.response_format import ResponseFormat
from jobs.spec import shown
from jobs.thinking import ChatEffort

# Keys of OpenAI's answers that none has here.
NEVER_HERE = ("annotations", "audio", "function_call")
# Keys of OpenAI's requests that are not served; a null asks for nothing.
NOT_SERVED = (
    "audio",
    "function_call",
    "functions",
    "moderation",
    "prediction",
    "prompt_cache_options",
    "prompt_cache_retention",
    "verbosity",
    "web_search_options",
)
MAX_CHOICES = 128
MAX_STOPS = 4
MAX_TOP_LOGPROBS = 20


class _Closed(BaseModel):
    # Strict: "0.5" is no number and 1 no bool; an integer is a float.
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Closed):
    type: Literal["text"]
    text: str


Content = str | list[TextPart]


class FunctionCall(_Closed):
    name: str
    arguments: str


class CalledTool(_Closed):
    """A call that an earlier answer asked for."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Closed):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_an_answer_is_sent_back(cls, value: Any) -> Any:
        """OpenAI's client dumps an answer's message with all of its keys, empty ones included."""
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item or key not in NEVER_HERE}

    @field_validator("content", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        for part in value if isinstance(value, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind != "text":
                raise ValueError(
                    f"a part of the type {shown(kind)} cannot be read: the models here read text, "
                    "in parts of the type 'text'"
                )
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and self.refusal is None and not self.tool_calls:
            raise ValueError(f"a message of the {self.role} needs content")
        return self

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it: text joined, `developer` as `system`, calls with objects."""
        content = self.content or self.refusal or ""
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": content}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.reasoning_content is not None:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": _arguments(call.function.arguments),
                    },
                }
                for call in self.tool_calls
            ]
        return message


def _arguments(text: str) -> Any:
    try:
        return strict_json.loads(text.encode())
    except ValueError:
        return text  # an earlier answer may have asked for nonsense


def only(*allowed: object, why: str) -> AfterValidator:
    """Refuses, with a reason, what OpenAI's clients may send and this server cannot honour."""

    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(why)
        return value

    return AfterValidator(check)


AS_TRAINED = "a model is sampled as it was trained: leave it out"
NEEDS = {"top_logprobs": "logprobs", "stream_options": "stream"}
NO_FORCED_CALL = "a call cannot be forced, sampling is not constrained here: 'auto' or 'none'"


class FunctionDefinition(_Closed):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None
    """Accepted; arguments are not held to the schema yet."""


class Tool(_Closed):
    type: Literal["function"]
    function: FunctionDefinition


class StreamOptions(_Closed):
    include_usage: bool = False
    include_obfuscation: bool | None = None
    """Accepted without effect: OpenAI pads its chunks against eavesdroppers."""


class ChatRequest(_Closed):
    """The body of POST /v1/chat/completions. What is not here is refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of the answer, reasoning included; without it as many as the context has room for."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """Log-probs are the model's own, whatever the temperature and top_p."""
    response_format: ResponseFormat | None = None
    """Puts the form before the model. The answer is not held to it yet, even where `strict`."""
    tools: list[Tool] | None = None
    tool_choice: Annotated[JsonValue, only(None, "auto", "none", why=NO_FORCED_CALL)] = None
    parallel_tool_calls: Annotated[
        bool | None, only(None, True, why="one call an answer cannot be held to: leave it out")
    ] = None
    reasoning_effort: ChatEffort | None = None
    """The thinking switch of the model's chat template; refused where it has none."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, str] | None = None
    """Accepted and not kept, as are `user`, `safety_identifier` and `prompt_cache_key`."""
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: Annotated[
        bool | None, only(None, False, why="answers are not kept here: leave it out")
    ] = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    frequency_penalty: Annotated[float | None, only(None, 0.0, why=AS_TRAINED)] = None
    """Only 0, as `presence_penalty`, and an empty `logit_bias`."""
    presence_penalty: Annotated[float | None, only(None, 0.0, why=AS_TRAINED)] = None
    logit_bias: Annotated[dict[str, float] | None, only(None, {}, why=AS_TRAINED)] = None

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            key: item for key, item in value.items() if item is not None or key not in NOT_SERVED
        }

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MAX_STOPS or "" in stops:
            raise ValueError(f"up to {MAX_STOPS} strings, none of them empty")
        return value

    @field_validator("max_completion_tokens")
    @classmethod
    def _is_said_once(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("max_tokens") not in (None, value):
            raise ValueError("'max_tokens' is another word for it: send one")
        return value

    @field_validator(*NEEDS)
    @classmethod
    def _has_what_it_needs(cls, value: Any, info: ValidationInfo) -> Any:
        needed = NEEDS[str(info.field_name)]
        if value and not info.data.get(needed):
            raise ValueError(f"it needs '{needed}'")
        return value

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []
