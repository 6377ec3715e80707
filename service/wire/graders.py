"""Grader runs on the wire: OpenAI's answer, every flag of it always."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from jobs.graders import ErrorFlag, Grade, GraderSpec
from jobs.graders.python import RAN_TEXT, RAN_TEXT_WARNING

MAX_SAMPLES = 256


class ValidateGraderRequest(BaseModel):
    """The body of POST .../graders/validate."""

    model_config = ConfigDict(extra="forbid")

    grader: dict[str, Any]


class ModelSample(BaseModel):
    """One answer of a model and the row it answers."""

    model_config = ConfigDict(extra="forbid")

    model_sample: str
    item: dict[str, Any] = Field(default_factory=dict)

    @field_validator("item", mode="before")
    @classmethod
    def _null_is_absent(cls, item: object) -> object:
        return {} if item is None else item


class RunGraderRequest(ModelSample):
    """The body of POST .../graders/run: one answer of a model against one row."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    grader: dict[str, Any]
    model: str | None = None
    """A base model on the service's machine, whose tokenizer counts tokens."""


class RunGraderBatchRequest(BaseModel):
    """The body of POST .../graders/run for many answers at once."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    grader: dict[str, Any]
    samples: Annotated[list[ModelSample], Field(min_length=1, max_length=MAX_SAMPLES)]
    model: str | None = None
    """A base model on the service's machine, whose tokenizer counts tokens."""


class ValidatedGrader(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    grader: dict[str, JsonValue]
    warnings: list[str]
    """What its author should know, a sentence each."""


class GraderErrors(BaseModel):
    """One flag a kind; the details say more where there is more."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_server_error_details: str | None = None


class TokenUsage(BaseModel):
    """What one judge took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class GraderRunMetadata(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    type: str
    errors: GraderErrors
    error_details: str | None
    """What went wrong, in words, whichever flag is set."""
    execution_time: float
    scores: dict[str, float | None]
    # OpenAI's schema has a number here and its examples an object; null suits readers of both.
    token_usage: None = None
    sampled_model_name: str | None
    incidents: dict[str, int]
    """What is worth counting and no failure, such as a judge's result that was clamped."""
    warnings: list[str]
    """What the grader's author should know, a sentence each."""


class GraderRun(BaseModel):
    """A grader that failed is a success here too: reward 0.0 and a flag, as at OpenAI."""

    reward: float
    metadata: GraderRunMetadata
    sub_rewards: dict[str, float | None]
    model_grader_token_usage_per_model: dict[str, TokenUsage]


class GraderRuns(BaseModel):
    """The runs of many samples, in their order."""

    object: Literal["list"] = "list"
    data: list[GraderRun]


# The flags that have a field for more, and which.
_DETAILS: dict[ErrorFlag, str] = {
    "python_grader_server_error": "python_grader_server_error_type",
    "python_grader_runtime_error": "python_grader_runtime_error_details",
    "model_grader_server_error": "model_grader_server_error_details",
}


def grader_run(grader: GraderSpec, grade: Grade) -> GraderRun:
    components = dict(grade.sub_rewards)
    return GraderRun(
        reward=0.0 if grade.reward is None else grade.reward,
        metadata=GraderRunMetadata(
            name=grader.name,
            type=grader.type,
            errors=_errors(grade),
            error_details=grade.error_detail,
            execution_time=grade.seconds,
            scores=components,
            sampled_model_name=grade.judge_model or _only_judge(grade),
            incidents=dict(grade.incidents),
            warnings=_warnings(grader, grade),
        ),
        sub_rewards=components,
        model_grader_token_usage_per_model={
            judge: TokenUsage(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                total_tokens=usage.total_tokens,
                cached_tokens=usage.cached_tokens,
            )
            for judge, usage in grade.usage.items()
        },
    )


def _only_judge(grade: Grade) -> str | None:
    """Who was asked, where the answer was of no use and its judge is not said."""
    answered = [name for name, usage in grade.usage.items() if usage.total_tokens]
    return answered[0] if len(grade.usage) == len(answered) == 1 else None


def _warnings(grader: GraderSpec, grade: Grade) -> list[str]:
    """What was seen in the source, or else while it ran."""
    if grader.warnings or RAN_TEXT not in grade.incidents:
        return grader.warnings
    return [RAN_TEXT_WARNING]


def _errors(grade: Grade) -> GraderErrors:
    flags = dict.fromkeys(grade.errors, True)
    said = {
        field: grade.details.get(flag) for flag, field in _DETAILS.items() if flag in grade.errors
    }
    return GraderErrors.model_validate({**flags, **said})
