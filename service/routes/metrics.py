"""A job's numbers and completions, step by step."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from jobs.errors import Expired, NotFound, WrongState
from jobs.status import TERMINAL
from jobs.store import jobs, metrics
from service.auth import CurrentProject
from service.dependencies import DbSession
from service.wire.errors import answers
from service.wire.progress import Metrics, Samples, SamplesDeleted, metrics_page, samples_object

router = APIRouter(prefix="/v1/fine_tuning/jobs/{job_id}", tags=["progress"])

MAX_STEP = 2**31 - 1


@router.get("/metrics", responses=answers(400, 401, 404))
def list_metrics(
    job_id: str,
    project_id: CurrentProject,
    session: DbSession,
    after_step: Annotated[int, Query(ge=-1, le=MAX_STEP, description="Exclusive.")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Metrics:
    """One row a step, in order; go on with `after_step` set to the last row's `step`."""
    jobs.get(session, project_id, job_id)
    found = metrics.list_after(session, job_id, after_step=after_step, limit=limit)
    return metrics_page(found.rows, has_more=found.has_more)


@router.get("/samples", responses=answers(400, 401, 404))
def list_samples(
    job_id: str,
    project_id: CurrentProject,
    session: DbSession,
    step: Annotated[int | None, Query(ge=0, le=MAX_STEP)] = None,
) -> Samples:
    """The completions of a step with their rewards and advantages; of the latest when not named."""
    job = jobs.get(session, project_id, job_id)
    latest = metrics.latest_samples(session, job_id)
    found = latest if step is None else metrics.samples_of(session, job_id, step)
    gone = job.samples_gone_step
    if found is None and gone is not None and (step or 0) <= gone:
        raise Expired(
            f"Samples of job {job_id} up to step {gone} are removed: the time that this server "
            "keeps them is over, or they were deleted. Its metrics are kept.",
            param=None if step is None else "step",
        )
    if step is None:
        return samples_object(latest)
    if found is None:
        newest = f"the latest is step {latest.step}" if latest else "there are none yet"
        raise NotFound(f"Job {job_id} has no samples of step {step}; {newest}.", param="step")
    return samples_object(found)


@router.delete("/samples", responses=answers(400, 401, 403, 404))
def delete_samples(job_id: str, project_id: CurrentProject, session: DbSession) -> SamplesDeleted:
    """Delete the samples of a job that is over; its metrics, events and checkpoints stay."""
    job = jobs.get(session, project_id, job_id)
    if job.status not in TERMINAL:
        raise WrongState(
            f"Job {job_id} is {job.status} and still writes samples: cancel it, or wait until it "
            "has finished.",
            param="fine_tune_id",
        )
    num_bytes = metrics.remove_samples(session, job_id)
    session.commit()
    return SamplesDeleted(id=job_id, bytes=num_bytes)
