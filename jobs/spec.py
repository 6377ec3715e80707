"""JobSpec: what a job asks for, as its owner sent it, checked for shape and sense.

Ids are looked up, files read and models resolved elsewhere; this knows only the body itself.
"""

from __future__ import annotations

import difflib
import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from jobs.errors import BadRequest, GraderInvalid, HonedError, UnknownField
from jobs.graders import GraderSpec, parse_grader
from jobs.graders.multi import Multi
from jobs.graders.weights import weights_of
from jobs.hyperparameters import AUTO, FOREIGN_NAMES, Hyperparameters

MAX_METADATA_PAIRS = 16

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80

# Keys of OpenAI's body that are not served, each with what to do instead.
NOT_SERVED = {
    "integrations": "integrations are not available on this server: read GET "
    "/v1/fine_tuning/jobs/{id}/metrics instead",
    "hyperparameters": "put hyperparameters inside method.reinforcement.hyperparameters; the "
    "top-level form belongs to supervised jobs",
}


class Reinforcement(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    grader: dict[str, Any]
    hyperparameters: Hyperparameters = Hyperparameters()

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        return {} if value is None else value


class Method(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Literal["reinforcement"]
    reinforcement: Reinforcement


class JobSpec(BaseModel):
    """The body of POST /v1/fine_tuning/jobs."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

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

    @field_validator("priority", mode="before")
    @classmethod
    def _null_is_zero(cls, value: Any) -> Any:
        return 0 if value is None else value

    @model_validator(mode="after")
    def _evaluation_has_rows(self) -> JobSpec:
        asked = self.hyperparameters
        for key in ("eval_interval", "eval_samples"):
            if self.validation_file is None and getattr(asked, key) != AUTO:
                raise ValueError(
                    f"hyperparameters.{key} is set but there is no validation_file to evaluate on"
                )
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        return self.method.reinforcement.hyperparameters

    def grader(self) -> GraderSpec:
        return parse_grader(self.method.reinforcement.grader)

    def component_weights(self) -> dict[str, float]:
        """What each component weighs in the reward; empty where it is no weighted sum."""
        grader = self.grader()
        return (weights_of(grader.calculate_output) if isinstance(grader, Multi) else None) or {}


def parse_spec(body: object) -> JobSpec:
    """The body as a JobSpec; raises BadRequest that names the field and says what to do."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object describing the job.")
    for key, sentence in NOT_SERVED.items():
        if body.get(key) not in (None, [], {}):
            raise BadRequest(f"'{key}' was refused: {sentence}.", param=key)
    served = {key: value for key, value in body.items() if key not in NOT_SERVED}
    _refuse_other_methods(served.get("method"))
    try:
        spec = JobSpec.model_validate(served)
    except ValidationError as error:
        raise as_bad_request(error, Hyperparameters) from None
    try:
        spec.grader()
    except GraderInvalid as error:
        raise grader_refused(error, at="method.reinforcement.grader") from None
    _refuse_sums_that_are_none(spec)
    _refuse_a_second_penalty(spec)
    return spec


def _refuse_a_second_penalty(spec: JobSpec) -> None:
    grader = spec.grader()
    if isinstance(grader, Multi) and "overlong_penalty" in grader.graders:
        raise BadRequest(
            "A grader may not be called 'overlong_penalty': that is the name of what "
            "overlong_buffer_tokens adds to the reward. Give it another key.",
            param="method.reinforcement.grader.graders",
        )


def _refuse_sums_that_are_none(spec: JobSpec) -> None:
    asked = spec.hyperparameters.reward_aggregation
    if asked == "normalize_then_sum" and not spec.component_weights():
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
