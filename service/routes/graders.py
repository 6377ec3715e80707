"""Graders tried out before a job pays for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from jobs import tokens
from jobs.errors import BadRequest, GraderInvalid
from jobs.graders import Grade, GraderSpec, Means, Sample, parse_grader
from jobs.graders.sandbox.pools import on_behalf_of
from jobs.graders.together import LATE, graded_together
from jobs.registry import find_model
from jobs.response_format import json_or_none
from jobs.settings import Settings
from jobs.spec import grader_refused
from service.auth import CurrentProject
from service.bodies import JsonBody, body_schema, parsed
from service.dependencies import MeansOf, SettingsOf, TurnsOf
from service.turns import SECONDS, Turn
from service.wire.errors import answers
from service.wire.graders import (
    GraderRun,
    GraderRuns,
    ModelSample,
    RunGraderBatchRequest,
    RunGraderRequest,
    ValidatedGrader,
    ValidateGraderRequest,
    grader_run,
)

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["graders"])


async def _turn(project_id: CurrentProject, turns: TurnsOf) -> AsyncIterator[Turn]:
    """Waited for here, in the event loop: a route that waited would keep a thread from others."""
    with closing(await turns.begin(project_id)) as turn:
        yield turn


TurnOf = Annotated[Turn, Depends(_turn, scope="function")]


@router.post(
    "/validate",
    responses=answers(400, 401, 403, 408, 413, 429),
    openapi_extra=body_schema(ValidateGraderRequest.__name__),
)
def validate_grader(
    body: JsonBody, project_id: CurrentProject, means: MeansOf, turn: TurnOf
) -> ValidatedGrader:
    """The grader with its defaults filled in, or a 400 that says where it is wrong."""
    request = parsed(body, ValidateGraderRequest)
    grader = _grader(request.grader, means, project_id, turn)
    return ValidatedGrader(grader=grader.dump(), warnings=grader.warnings)


@router.post(
    "/run",
    responses=answers(400, 401, 403, 404, 408, 413, 429),
    openapi_extra=body_schema(RunGraderRequest.__name__, RunGraderBatchRequest.__name__),
)
def run_grader(
    body: JsonBody,
    project_id: CurrentProject,
    means: MeansOf,
    settings: SettingsOf,
    turn: TurnOf,
) -> GraderRun | GraderRuns:
    """Grade one answer, or `samples`, many. Look at `metadata.errors` of each.

    A grader that fails answers 200 and 0.0; so does a sample that is not graded within three
    minutes of its turn, as an `unresponsive_reward_error`. A grader that ranks siblings takes
    samples of equal `item` as such.
    """
    if isinstance(body, dict) and "samples" in body:
        batch = parsed(body, RunGraderBatchRequest)
        grader = _grader(batch.grader, means, project_id, turn)
        samples = [_sample(one, batch.model, settings) for one in batch.samples]
        items = [one.item for one in batch.samples]
        grades = graded_together(grader, samples, items, run=turn.run)
        return GraderRuns(data=[grader_run(grader, grade) for grade in grades])
    request = parsed(body, RunGraderRequest)
    grader = _grader(request.grader, means, project_id, turn)
    sample = _sample(request, request.model, settings)
    (graded,) = turn.run([lambda: grader.grade(sample, request.item)])
    is_late = graded.cancelled() or not graded.done()
    return grader_run(grader, Grade.failed(LATE, seconds=SECONDS) if is_late else graded.result())


def _sample(asked: ModelSample, model: str | None, settings: Settings) -> Sample:
    return Sample(
        output_text=asked.model_sample,
        output_json=json_or_none(asked.model_sample),
        num_tokens=None if model is None else _num_tokens(asked.model_sample, model, settings),
    )


def _num_tokens(text: str, model: str, settings: Settings) -> int:
    folder = find_model(model, settings).folder
    try:
        if folder is not None:
            return tokens.count(folder, text)
    except FileNotFoundError:
        folder = None
    raise BadRequest(
        f"The tokenizer of '{model}' is not on this machine: name a model that GET /v1/models "
        "shows, or leave 'model' out.",
        param="model",
    )


def _grader(definition: dict[str, Any], means: Means, project_id: str, turn: Turn) -> GraderSpec:
    try:
        with on_behalf_of(project_id):
            grader = parse_grader(definition, means)
        (checked,) = turn.run([grader.check])
        if checked.cancelled() or not checked.done():
            # No 408: clients would send it again, twice, to take as long.
            raise GraderInvalid(
                f"it did not load within {SECONDS:g} seconds; what the bodies of its python "
                "sources do must take few",
                param="",
            )
        checked.result()
        return grader
    except GraderInvalid as error:
        raise grader_refused(error, at="grader") from None
