"""Fine-tuning jobs: made, listed, cancelled, paused, resumed."""

from __future__ import annotations

import logging
import secrets
import time
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends
from fastapi.responses import Response
from sqlalchemy.orm import Session

from jobs import ids, results, thinking
from jobs.errors import BadRequest, GraderInvalid
from jobs.graders import GraderSpec, Means
from jobs.graders.alone import grades_alone
from jobs.graders.sandbox.pools import on_behalf_of
from jobs.models import Job
from jobs.registry import BaseModel, find_model
from jobs.request_id import request_id
from jobs.resolve import check_rates
from jobs.scopes import Scope
from jobs.spec import JobSpec, grader_refused, parse_spec
from jobs.status import TERMINAL
from jobs.store import events, files, jobs
from jobs.thinking import template_in
from service.auth import CurrentCaller, CurrentProject, require
from service.bodies import JsonBody, body_schema
from service.dependencies import (
    After,
    Bell,
    DbSession,
    Limit,
    MeansOf,
    Resources,
    SettingsOf,
    get_resources,
)
from service.idempotency import OnceOnly
from service.metadata_filter import METADATA_PARAMETER, MetadataFilter
from service.wire.errors import answers
from service.wire.jobs import FineTuningJob, job_object
from service.wire.pages import CursorPage

logger = logging.getLogger(__name__)

CANCEL_POLL_SECONDS = 0.1
NOT_HELD = (
    "`strict` is true, but answers are not held to the schema yet: it is put before the model, and "
    "`sample.output_json` is null where an answer does not parse."
)

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning jobs"])


@router.post(
    "",
    response_model=FineTuningJob,
    responses=answers(400, 401, 403, 404, 413, 422),
    openapi_extra=body_schema("JobSpec"),
)
def create_job(
    body: JsonBody,
    caller: CurrentCaller,
    session: DbSession,
    once: OnceOnly,
    settings: SettingsOf,
    means: MeansOf,
    bell: Bell,
    background: BackgroundTasks,
) -> Response:
    """Ask for a job. It answers at once; the files are read afterwards, in `validating_files`."""
    spec, project_id = parse_spec(body, means), caller.project_id
    grader = _checked_grader(spec, means, project_id)
    if spec.priority > 0:
        require(caller, Scope.PRIORITY, "put a job before others (`priority` above 0)")
    repeated = once.repeated(body)
    if repeated is not None:
        return repeated
    model = find_model(spec.model, settings)
    _check_effort(spec, model)
    check_rates(spec.hyperparameters, model.learning_rate)
    job = jobs.add(session, _row(spec, model=model.name, project_id=project_id))
    # Once the job is written (and not yet committed), so that no file is deleted in between.
    _check_file(session, project_id, spec.training_file, param="training_file")
    if spec.validation_file is not None:
        _check_file(session, project_id, spec.validation_file, param="validation_file")
    events.add(session, job.id, _validating(spec))
    form = spec.method.reinforcement.response_format
    if form is not None and form.json_schema is not None and form.json_schema.strict:
        events.add(session, job.id, NOT_HELD, level="warn")
    for warning in grader.warnings:
        events.add(session, job.id, warning, level="warn")
    answer = once.made(job.id, job_object(job))
    logger.info("%s is made", job.id, extra={"fields": {"job_id": job.id}})
    # Rung once the answer is out, so that a broker that is away delays nobody.
    background.add_task(bell.ring)
    return answer


def _checked_grader(spec: JobSpec, means: Means, project_id: str) -> GraderSpec:
    """The grader, and what only trying can tell, such as whether a python grader loads."""
    try:
        with on_behalf_of(project_id):
            grader = spec.grader(means)
        grader.check()
    except GraderInvalid as error:
        raise grader_refused(error, at="method.reinforcement.grader") from None
    patience = spec.hyperparameters.early_stopping_patience
    if patience is not None and not grades_alone(grader):
        raise BadRequest(
            "early_stopping_patience waits for a better evaluation, and this grader only ranks the "
            "answers to one prompt against each other: evaluations cannot be compared. Leave it "
            "out, or give a python grader a 'grade' beside its 'grade_group'.",
            param="method.reinforcement.hyperparameters.early_stopping_patience",
        )
    return grader


def _row(spec: JobSpec, *, model: str, project_id: str) -> Job:
    return Job(
        id=ids.new_id(ids.JOB),
        project_id=project_id,
        spec=spec.model_dump(mode="json"),
        model=model,
        training_file=spec.training_file,
        validation_file=spec.validation_file,
        priority=spec.priority,
        request_id=request_id.get(),
        seed=secrets.randbelow(2**31) if spec.seed is None else spec.seed,
    )


def _check_effort(spec: JobSpec, model: BaseModel) -> None:
    """Of a model whose template is at hand; of any other, validation finds out."""
    template = template_in(model.folder) if model.folder else None
    if template is None:
        return
    try:
        thinking.arguments(template, spec.hyperparameters.reasoning_effort)
    except ValueError as error:
        raise BadRequest(
            f"{error}.", param="method.reinforcement.hyperparameters.reasoning_effort"
        ) from None


def _check_file(session: Session, project_id: str, file_id: str, *, param: str) -> None:
    file = files.get(session, project_id, file_id, param=param, is_kept=True)
    if file.purpose != "fine-tune":
        raise BadRequest(
            f"File {file_id} was uploaded with purpose '{file.purpose}'; "
            "a job reads files of purpose 'fine-tune'.",
            param=param,
        )


def _validating(spec: JobSpec) -> str:
    held_out = f" and validation file: {spec.validation_file}" if spec.validation_file else ""
    return f"Validating training file: {spec.training_file}{held_out}"


@router.get("", responses=answers(400, 401, 404), openapi_extra=METADATA_PARAMETER)
def list_jobs(
    project_id: CurrentProject,
    session: DbSession,
    labels: MetadataFilter,
    after: After = None,
    limit: Limit = 20,
) -> CursorPage[FineTuningJob]:
    """The project's jobs, newest first; `metadata[key]=value` keeps those that carry it."""
    found = jobs.list_page(
        session,
        project_id,
        after=after,
        limit=limit,
        metadata=labels,
        is_unlabelled=labels is None,
    )
    return CursorPage[FineTuningJob].of(
        [job_object(job) for job in found.rows], has_more=found.has_more
    )


@router.get("/{job_id}", responses=answers(401, 404))
def retrieve_job(job_id: str, project_id: CurrentProject, session: DbSession) -> FineTuningJob:
    return job_object(jobs.get(session, project_id, job_id))


@router.post("/{job_id}/cancel", responses=answers(400, 401, 403, 404))
def cancel_job(
    job_id: str,
    project_id: CurrentProject,
    resources: Annotated[Resources, Depends(get_resources)],
) -> FineTuningJob:
    """Stop a job. A running one first saves its adapter, and the answer waits for that.

    Where it takes longer than seconds the answer is the job as it is, with the request noted.
    """
    with resources.sessions() as session:
        jobs.cancel(session, project_id, job_id)
        results.write_if_over(session, resources.artifacts, job_id)
        session.commit()
    give_up_at = time.monotonic() + resources.settings.cancel_seconds
    while True:
        with resources.sessions() as session:
            job = jobs.get(session, project_id, job_id)
            if job.status in TERMINAL or time.monotonic() > give_up_at:
                return job_object(job)
        time.sleep(CANCEL_POLL_SECONDS)


@router.post("/{job_id}/pause", responses=answers(400, 401, 403, 404))
def pause_job(job_id: str, project_id: CurrentProject, session: DbSession) -> FineTuningJob:
    """Save a running job's state and free its device; it is `paused` within seconds."""
    job = jobs.pause(session, project_id, job_id)
    session.commit()
    return job_object(job)


@router.post("/{job_id}/resume", responses=answers(400, 401, 403, 404))
def resume_job(
    job_id: str,
    project_id: CurrentProject,
    session: DbSession,
    bell: Bell,
    background: BackgroundTasks,
) -> FineTuningJob:
    """Put a paused job back in the queue; it goes on from its last finished step."""
    job = jobs.resume(session, project_id, job_id)
    session.commit()
    background.add_task(bell.ring)
    return job_object(job)
