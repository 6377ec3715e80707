"""A job's checkpoints, and the adapter that each of them is."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from jobs.errors import Gone, NotFound
from jobs.status import Status
from jobs.store import checkpoints, jobs
from service.auth import CurrentProject
from service.dependencies import After, Artifacts, DbSession, Limit, let_go
from service.downloads import ARCHIVE_ANSWER, archive_response
from service.wire.errors import answers
from service.wire.pages import CursorPage
from service.wire.progress import JobCheckpoint, checkpoint_object

router = APIRouter(prefix="/v1/fine_tuning/jobs/{job_id}", tags=["checkpoints"])


@router.get("/checkpoints", responses=answers(400, 401, 404))
def list_checkpoints(
    job_id: str,
    project_id: CurrentProject,
    session: DbSession,
    after: After = None,
    limit: Limit = 10,
) -> CursorPage[JobCheckpoint]:
    """Adapters at a step, newest first."""
    job = jobs.get(session, project_id, job_id)
    found = checkpoints.list_page(session, job_id, after=after, limit=limit)
    return CursorPage[JobCheckpoint].of(
        [checkpoint_object(job, checkpoint) for checkpoint in found.rows],
        has_more=found.has_more,
    )


@router.get(
    "/adapter",
    response_class=Response,
    responses={**ARCHIVE_ANSWER, **answers(400, 401, 404, 410, 416)},
)
def download_adapter(
    job_id: str,
    request: Request,
    project_id: CurrentProject,
    session: DbSession,
    artifacts: Artifacts,
) -> Response:
    """The job's newest adapter; of a finished job, the one it ended with."""
    job = jobs.get(session, project_id, job_id)
    checkpoint = checkpoints.latest(session, job_id)
    if checkpoint is None:
        raise NotFound(
            f"Job {job_id} is {job.status} and has no adapter yet: the first one is there with "
            "its first checkpoint.",
            param="fine_tune_id",
            code="no_checkpoint",
        )
    if job.status == Status.SUCCEEDED and checkpoint.step != job.step:
        raise Gone(f"The adapter that job {job_id} ended with was deleted with its model.")
    let_go(session, checkpoint)
    return archive_response(request, artifacts, checkpoint)


@router.get(
    "/checkpoints/{checkpoint_id}/adapter",
    response_class=Response,
    responses={**ARCHIVE_ANSWER, **answers(400, 401, 404, 410, 416)},
)
def download_checkpoint(
    job_id: str,
    checkpoint_id: str,
    request: Request,
    project_id: CurrentProject,
    session: DbSession,
    artifacts: Artifacts,
) -> Response:
    """The adapter as it was at this checkpoint's step."""
    jobs.get(session, project_id, job_id)
    checkpoint = checkpoints.get(session, job_id, checkpoint_id)
    let_go(session, checkpoint)
    return archive_response(request, artifacts, checkpoint)
