"""JobSpec: what a job asks for, as its owner sent it, checked for shape and sense.

Ids are looked up, files read and models resolved elsewhere; this knows only the body itself.
"""

from __future__ import annotations

import difflib
import reprlib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from jobs.errors import BadRequest, GraderInvalid, HonedError, UnknownField
from jobs.graders import GraderSpec, Means, parse_grader
from jobs.graders.means import BARE
from jobs.graders.multi import Multi
from jobs.graders.weights import weights_of
from jobs.hyperparameters import FOREIGN_NAMES, Hyperparameters
from jobs.limits import Limits
from jobs.openai_body import OPENAI_ONLY, in_our_words
from jobs.response_format import ResponseFormat

MAX_METADATA_PAIRS = 16

# Hyperparameters that say nothing without rows to evaluate on.
EVALUATION_KEYS = (
    "eval_interval",
    "eval_samples",
    "eval_pass_k",
    "eval_pass_threshold",
    "early_stopping_patience",
)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


class Reinforcement(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    grader: dict[str, Any]
    response_format: ResponseFormat | None = None
    """Put before the model in the system message; graders read `sample.output_json`."""
    hyperparameters: Hyperparameters = Hyperparameters()

    @field_serializer("response_format")
    def _as_sent(self, value: ResponseFormat | None) -> dict[str, Any] | None:
        return None if value is None else value.model_dump(mode="json", exclude_unset=True)

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        return {} if value is None else value


class Method(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Literal["reinforcement"]
    reinforcement: Reinforcement
    supervised: None = Field(default=None, exclude=True)
    """As OpenAI's client shows a job's method: null, like `dpo`."""
    dpo: None = Field(default=None, exclude=True)


class JobSpec(BaseModel):
    """The body of POST /v1/fine_tuning/jobs."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra=OPENAI_ONLY
    )

    model: Annotated[str, Field(min_length=1, max_length=512)]
    training_file: Annotated[str, Field(min_length=1)]
    validation_file: Annotated[str, Field(min_length=1)] | None = None
    method: Method
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] | None = None
    metadata: (
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None
    ) = Field(default=None, max_length=MAX_METADATA_PAIRS)
    priority: Annotated[int, Field(strict=True, ge=-100, le=100)] = 0
    """Jobs run in order of priority, then of age. Above 0 needs a key with the scope `priority`."""

    limits: Limits | None = None
    """What the job may spend; at a limit it is paused."""

    @field_validator("suffix")
    @classmethod
    def _suffix_fits_a_name(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("it becomes part of the model's name: only printable characters")
        return value

    @field_validator("priority", mode="before")
    @classmethod
    def _null_is_zero(cls, value: Any) -> Any:
        return 0 if value is None else value

    @model_validator(mode="after")
    def _evaluation_has_rows(self) -> JobSpec:
        if self.validation_file is not None:
            return self
        for key in EVALUATION_KEYS:
            default = Hyperparameters.model_fields[key].default
            if getattr(self.hyperparameters, key) != default:
                raise ValueError(
                    f"hyperparameters.{key} is set but there is no validation_file to evaluate on"
                )
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        return self.method.reinforcement.hyperparameters

    def grader(self, means: Means = BARE) -> GraderSpec:
        """The reward, bound to what it may use; raises GraderInvalid where that is not there."""
        return parse_grader(self.method.reinforcement.grader, means)


def component_weights(grader: GraderSpec) -> dict[str, float]:
    """What each component weighs in the reward; empty where it is no weighted sum."""
    return (weights_of(grader.calculate_output) if isinstance(grader, Multi) else None) or {}


def parse_spec(body: object, means: Means = BARE) -> JobSpec:
    """The body as a JobSpec; raises BadRequest that names the field and says what to do."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object describing the job.")
    _refuse_other_methods(body.get("method"))
    try:
        spec = JobSpec.model_validate(in_our_words(body))
    except ValidationError as error:
        raise as_bad_request(error, Hyperparameters) from None
    try:
        grader = spec.grader(means)
    except GraderInvalid as error:
        raise grader_refused(error, at="method.reinforcement.grader") from None
    _refuse_sums_that_are_none(spec, grader)
    _refuse_a_second_penalty(grader)
    _refuse_limits_without_a_judge(spec, grader)
    return spec


def _refuse_limits_without_a_judge(spec: JobSpec, grader: GraderSpec) -> None:
    asked = spec.limits.model_dump(exclude_none=True) if spec.limits else {}
    for key in asked.keys() - {"max_seconds"}:
        if not grader.asks_judges:
            raise BadRequest(
                f"'limits.{key}' bounds what judges are asked, and this grader asks none.",
                param=f"limits.{key}",
            )


def _refuse_a_second_penalty(grader: GraderSpec) -> None:
    names = grader.graders if isinstance(grader, Multi) else (grader.name,)
    if "overlong_penalty" in names:
        raise BadRequest(
            "A grader may not be called 'overlong_penalty': that is the name of what "
            "overlong_buffer_tokens adds to the reward. Give it another key.",
            param="method.reinforcement.grader.graders",
        )


def _refuse_sums_that_are_none(spec: JobSpec, grader: GraderSpec) -> None:
    asked = spec.hyperparameters.reward_aggregation
    if asked == "normalize_then_sum" and not component_weights(grader):
        raise BadRequest(
            "reward_aggregation 'normalize_then_sum' takes the reward apart into weighted graders: "
            "it needs a 'multi' grader whose calculate_output is a weighted sum of them, such as "
            "'0.8 * correct + 0.2 * short'.",
            param="method.reinforcement.hyperparameters.reward_aggregation",
        )


def shown(value: object) -> str:
    """A value as errors repeat it: short, whatever was sent."""
    return _short.repr(value)


def grader_refused(error: GraderInvalid, *, at: str) -> GraderInvalid:
    """The refusal as a whole sentence, with its place in a body whose field `at` is the grader."""
    path = f"{at}.{error.param}" if error.param else at
    return GraderInvalid(f"The grader cannot be used: {error.message}.", param=path)


def _refuse_other_methods(method: object) -> None:
    kind = method.get("type") if isinstance(method, dict) else None
    if method is None:
        raise BadRequest(
            "'method' is missing: without it OpenAI's API means supervised fine-tuning, which this "
            'server does not offer. Send {"type": "reinforcement", "reinforcement": {...}}.',
            param="method",
        )
    if kind in ("supervised", "dpo"):
        raise BadRequest(
            f"Method '{kind}' is not offered: this server trains with rewards. "
            'Send {"type": "reinforcement", "reinforcement": {"grader": ...}}.',
            param="method.type",
        )


def as_bad_request(error: ValidationError, *named: type[BaseModel]) -> HonedError:
    """The first fault of a pydantic error as one sentence with the field's path.

    `named` are models whose field names help to guess what an unknown key meant.
    """
    first = _most_telling(error.errors())
    path = ".".join(str(part) for part in first["loc"] if not _is_branch(part))
    if first["type"] == "extra_forbidden":
        return UnknownField(_unknown(path, named), param=path)
    if first["type"] == "missing":
        return BadRequest(f"'{path}' is missing.", param=path, code="missing_field")
    value = first.get("input")
    reason = first["msg"].removeprefix("Value error, ")
    if not path:
        return BadRequest(f"{reason}.")
    if isinstance(value, (dict, list)):
        return BadRequest(f"'{path}': {reason}.", param=path)
    return BadRequest(f"'{path}' is {shown(value)}: {reason}.", param=path)


def _most_telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """Unknown keys first (they explain the rest); of a union's branches, not the literal 'auto'."""
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    if unknown:
        return unknown[0]
    first = errors[0]
    if not first["loc"] or not _is_branch(first["loc"][-1]):
        return first
    same = [error for error in errors if error["loc"][:-1] == first["loc"][:-1]]
    numeric = [error for error in same if error["type"] not in ("literal_error", "none_required")]
    return (numeric or same)[0]


def _is_branch(part: int | str) -> bool:
    """Pydantic adds the union's branch to the path; a user's path has none."""
    return isinstance(part, str) and (
        part.startswith(("literal[", "constrained-", "list[", "function-"))
        or part in ("int", "float", "str", "[key]")
    )


def _unknown(path: str, named: tuple[type[BaseModel], ...]) -> str:
    key = path.rsplit(".", 1)[-1]
    if key in FOREIGN_NAMES:
        return f"Unknown parameter: '{path}'. `{key}` is `{FOREIGN_NAMES[key]}` here."
    known = [name for model in named for name in model.model_fields]
    guess = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean `{guess[0]}`?" if guess else ""
    return f"Unknown parameter: '{path}'.{hint}"
