"""Graders tried out before a job pays for them."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ValidationError

from jobs import strict_json
from jobs.errors import BadRequest, GraderInvalid
from jobs.graders import GraderSpec, Sample, parse_grader
from jobs.spec import as_bad_request, grader_refused
from service.auth import CurrentProject
from service.bodies import JsonBody, body_schema
from service.wire.errors import answers
from service.wire.graders import (
    GraderRun,
    RunGraderRequest,
    ValidatedGrader,
    ValidateGraderRequest,
    grader_run,
)

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["graders"])

Request = TypeVar("Request", bound=BaseModel)


@router.post(
    "/validate",
    responses=answers(400, 401, 403, 413),
    openapi_extra=body_schema(ValidateGraderRequest.__name__),
)
def validate_grader(body: JsonBody, project_id: CurrentProject) -> ValidatedGrader:
    """The grader with its defaults filled in, or a 400 that says where it is wrong."""
    request = _parsed(body, ValidateGraderRequest)
    return ValidatedGrader(grader=_grader(request.grader).dump())


@router.post(
    "/run",
    responses=answers(400, 401, 403, 413),
    openapi_extra=body_schema(RunGraderRequest.__name__),
)
def run_grader(body: JsonBody, project_id: CurrentProject) -> GraderRun:
    """Grade one answer. Look at `metadata.errors`: a grader that fails answers 200 and 0.0."""
    request = _parsed(body, RunGraderRequest)
    grader = _grader(request.grader)
    sample = Sample(
        output_text=request.model_sample, output_json=_json_or_none(request.model_sample)
    )
    return grader_run(grader, grader.grade(sample, request.item))


def _parsed(body: object, model: type[Request]) -> Request:
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise as_bad_request(error, model) from None


def _grader(definition: dict[str, Any]) -> GraderSpec:
    try:
        return parse_grader(definition)
    except GraderInvalid as error:
        raise grader_refused(error, at="grader") from None


def _json_or_none(text: str) -> Any:
    """`sample.output_json` of an answer that is JSON, as OpenAI's run fills it."""
    try:
        return strict_json.loads(text.encode())
    except ValueError:
        return None
