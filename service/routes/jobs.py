"""Fine-tuning jobs: made, listed, cancelled, paused, resumed."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from jobs import ids
from jobs.errors import BadRequest
from jobs.models import Job
from jobs.registry import find_model
from jobs.scopes import Scope
from jobs.spec import JobSpec, parse_spec
from jobs.store import events, files, jobs
from service.auth import CurrentCaller, CurrentProject, require
from service.bodies import JsonBody, body_schema
from service.dependencies import After, Bell, DbSession, SettingsOf
from service.idempotency import OnceOnly
from service.wire.errors import answers
from service.wire.jobs import FineTuningJob, job_object
from service.wire.pages import CursorPage

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
    bell: Bell,
    background: BackgroundTasks,
) -> Response:
    """Ask for a job. It answers at once; the files are read afterwards, in `validating_files`."""
    spec, project_id = parse_spec(body), caller.project_id
    if spec.priority > 0:
        require(caller, Scope.PRIORITY, "put a job before others (`priority` above 0)")
    repeated = once.repeated(body)
    if repeated is not None:
        return repeated
    model = find_model(spec.model, settings)
    job = jobs.add(session, _row(spec, model=model.name, project_id=project_id))
    # Once the job is written (and not yet committed), so that no file is deleted in between.
    _check_file(session, project_id, spec.training_file, param="training_file")
    if spec.validation_file is not None:
        _check_file(session, project_id, spec.validation_file, param="validation_file")
    events.add(session, job.id, _validating(spec))
    answer = once.made(job.id, job_object(job))
    # Rung once the answer is out, so that a broker that is away delays nobody.
    background.add_task(bell.ring)
    return answer


def _row(spec: JobSpec, *, model: str, project_id: str) -> Job:
    return Job(
        id=ids.new_id(ids.JOB),
        project_id=project_id,
        spec=spec.model_dump(mode="json"),
        model=model,
        training_file=spec.training_file,
        validation_file=spec.validation_file,
        priority=spec.priority,
        seed=secrets.randbelow(2**31) if spec.seed is None else spec.seed,
    )


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


@router.get("", responses=answers(400, 401, 404))
def list_jobs(
    project_id: CurrentProject,
    session: DbSession,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> CursorPage[FineTuningJob]:
    """The project's jobs, newest first."""
    found = jobs.list_page(session, project_id, after=after, limit=limit)
    return CursorPage[FineTuningJob].of(
        [job_object(job) for job in found.rows], has_more=found.has_more
    )


@router.get("/{job_id}", responses=answers(401, 404))
def retrieve_job(job_id: str, project_id: CurrentProject, session: DbSession) -> FineTuningJob:
    return job_object(jobs.get(session, project_id, job_id))


@router.post("/{job_id}/cancel", responses=answers(400, 401, 403, 404))
def cancel_job(job_id: str, project_id: CurrentProject, session: DbSession) -> FineTuningJob:
    """Stop a job. A running one first saves its adapter, and is `cancelled` within seconds."""
    job = jobs.cancel(session, project_id, job_id)
    session.commit()
    return job_object(job)


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
