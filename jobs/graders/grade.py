"""What goes into a grader (a sample) and what comes out of it (a grade or a named failure)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


class GradeFailure(Exception):
    """One sample could not be graded; the flag says of which kind, the detail why."""

    def __init__(self, flag: ErrorFlag, detail: str) -> None:
        super().__init__(flag, detail)
        self.flag = flag
        self.detail = detail


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

    def _choices(self) -> list[dict[str, Any]]:
        message: dict[str, Any] = {"role": "assistant", "content": self.output_text}
        if self.output_tools:
            message["tool_calls"] = self.output_tools
        return [{"index": 0, "message": message, "finish_reason": self.finish_reason}]


# The names that `{{sample.<name>}}` may use.
SAMPLE_VARIABLES = ("output_text", "output_json", "output_tools", "choices", "reasoning_text")


@dataclass(frozen=True)
class Grade:
    """What one grader says of one sample.

    `reward` is None exactly when `errors` is not empty: a failure is never a silent zero.
    `sub_rewards` holds each component of a multi grader, None where that component failed.
    """

    reward: float | None
    sub_rewards: Mapping[str, float | None] = field(default_factory=dict)
    errors: frozenset[ErrorFlag] = frozenset()
    error_detail: str | None = None
    seconds: float = 0.0
