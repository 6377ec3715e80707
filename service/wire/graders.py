"""Grader runs on the wire: OpenAI's answer, every flag of it always."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from jobs.graders import Grade, GraderSpec


class ValidateGraderRequest(BaseModel):
    """The body of POST .../graders/validate."""

    model_config = ConfigDict(extra="forbid")

    grader: dict[str, Any]


class RunGraderRequest(BaseModel):
    """The body of POST .../graders/run: one answer of a model against one row."""

    model_config = ConfigDict(extra="forbid")

    grader: dict[str, Any]
    model_sample: str
    item: dict[str, Any] = Field(default_factory=dict)


class ValidatedGrader(BaseModel):
    grader: dict[str, JsonValue]


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


class GraderRunMetadata(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    type: str
    errors: GraderErrors
    error_details: str | None
    """What went wrong, in words, whichever flag is set."""
    execution_time: float
    scores: dict[str, float | None]
    token_usage: None = None
    sampled_model_name: None = None


class GraderRun(BaseModel):
    """A grader that failed is a success here too: reward 0.0 and a flag, as at OpenAI."""

    reward: float
    metadata: GraderRunMetadata
    sub_rewards: dict[str, float | None]
    model_grader_token_usage_per_model: dict[str, JsonValue] = {}


def grader_run(grader: GraderSpec, grade: Grade) -> GraderRun:
    components = dict(grade.sub_rewards)
    return GraderRun(
        reward=0.0 if grade.reward is None else grade.reward,
        metadata=GraderRunMetadata(
            name=grader.name,
            type=grader.type,
            errors=GraderErrors.model_validate(dict.fromkeys(grade.errors, True)),
            error_details=grade.error_detail,
            execution_time=grade.seconds,
            scores=components,
        ),
        sub_rewards=components,
    )
