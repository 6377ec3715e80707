"""What goes into a grader (a sample) and what comes out of it (a grade or a named failure)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

ErrorFlag = Literal[
    "formula_parse_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
]
ERROR_FLAGS: tuple[ErrorFlag, ...] = get_args(ErrorFlag)
# Their detail is the error's type, one word, and no sentence.
TYPED_FLAGS: frozenset[ErrorFlag] = frozenset({"python_grader_server_error"})


@dataclass(frozen=True)
class Usage:
    """What a judge was asked and what it took, in requests and tokens; they add up."""

    num_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's tokens, those that the judge's server had kept from earlier requests."""

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.num_requests + other.num_requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


UsagePerJudge = Mapping[str, Usage]


def summed(usages: Iterable[UsagePerJudge]) -> dict[str, Usage]:
    """Several graders' usage as one, judge by judge."""
    total: dict[str, Usage] = {}
    for usage in usages:
        for judge, spent in usage.items():
            total[judge] = total.get(judge, Usage()) + spent
    return total


class GradeFailure(Exception):
    """One sample could not be graded; the flag says of which kind, the detail why.

    `usage` is what a judge took for an answer that was of no use.
    """

    def __init__(
        self, flag: ErrorFlag, detail: str, *, usage: UsagePerJudge = MappingProxyType({})
    ) -> None:
        super().__init__(flag, detail)
        self.flag = flag
        self.detail = detail
        self.usage = usage


@dataclass(frozen=True)
class Sample:
    """One answer of the model, as graders see it.

    `output_json` is the parsed answer where the caller asked for JSON, else None. `num_tokens`
    counts the sampled completion, reasoning included, and is None where nothing was tokenized.
    """

    output_text: str
    finish_reason: str = "stop"
    num_tokens: int | None = None
    reasoning_text: str | None = None
    output_json: Any = None
    output_tools: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def variable(self, name: str) -> Any:
        """The value behind `{{sample.<name>}}`; raises GradeFailure where this sample has none."""
        if name == "output_text":
            return self.output_text
        if name == "output_json":
            if self.output_json is None:
                raise GradeFailure(
                    "sample_parse_error", "sample.output_json: the answer was not parsed as JSON"
                )
            return self.output_json
        if name == "output_tools":
            return self.output_tools
        if name == "choices":
            return self._choices()
        if name == "reasoning_text" and self.reasoning_text is not None:
            return self.reasoning_text
        raise GradeFailure("invalid_variable_error", f"sample.{name}: this sample has none")

    def as_json(self) -> dict[str, Any]:
        """All of it, as an endpoint grader is sent it: a chat completion's parts, and ours."""
        return {
            "choices": self._choices(),
            "output_text": self.output_text,
            "output_json": self.output_json,
            "output_tools": list(self.output_tools),
            "reasoning_text": self.reasoning_text,
            "num_tokens": self.num_tokens,
        }

    def _choices(self) -> list[dict[str, Any]]:
        message: dict[str, Any] = {"role": "assistant", "content": self.output_text}
        if self.output_tools:
            message["tool_calls"] = self.output_tools
        return [{"index": 0, "message": message, "finish_reason": self.finish_reason}]


# The names that `{{sample.<name>}}` may use.
SAMPLE_VARIABLES = ("output_text", "output_json", "output_tools", "choices", "reasoning_text")


@dataclass(frozen=True)
class Scored:
    """A reward, and what there is to say about how it came to be."""

    reward: float
    usage: UsagePerJudge = field(default_factory=dict)
    judge_model: str | None = None
    """The model that a judge's server said it answered with."""
    incidents: Mapping[str, int] = field(default_factory=dict)
    """What is worth counting and no failure, such as a scorer that an answer made raise."""


@dataclass(frozen=True)
class Grade:
    """What one grader says of one sample.

    `reward` is None exactly when `errors` is not empty: a failure is never a silent zero.
    `sub_rewards` holds each component of a multi grader, None where that component failed, and
    `parts` their whole grades. `details` says more of each error, `error_detail` all of it.
    """

    reward: float | None
    sub_rewards: Mapping[str, float | None] = field(default_factory=dict)
    errors: frozenset[ErrorFlag] = frozenset()
    error_detail: str | None = None
    seconds: float = 0.0
    details: Mapping[ErrorFlag, str] = field(default_factory=dict)
    parts: Mapping[str, "Grade"] = field(default_factory=dict)
    usage: UsagePerJudge = field(default_factory=dict)
    judge_model: str | None = None
    incidents: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def failed(cls, failure: GradeFailure, *, seconds: float) -> "Grade":
        """No reward, one flag and its detail."""
        return cls(
            reward=None,
            errors=frozenset({failure.flag}),
            error_detail=failure.detail,
            details={failure.flag: failure.detail},
            seconds=seconds,
            usage=failure.usage,
        )
