"""A job's events, newest first."""

from __future__ import annotations

from fastapi import APIRouter

from jobs.store import events, jobs
from service.auth import CurrentProject
from service.dependencies import After, DbSession, Limit
from service.wire.errors import answers
from service.wire.pages import CursorPage
from service.wire.progress import JobEvent, event_object, event_seq

router = APIRouter(prefix="/v1/fine_tuning/jobs/{job_id}", tags=["progress"])


@router.get("/events", responses=answers(400, 401, 404))
def list_events(
    job_id: str,
    project_id: CurrentProject,
    session: DbSession,
    after: After = None,
    limit: Limit = 20,
) -> CursorPage[JobEvent]:
    """What happened, newest first; `after` goes back in time."""
    jobs.get(session, project_id, job_id)
    found = events.list_page(
        session,
        job_id,
        after_seq=event_seq(job_id, after) if after else None,
        limit=limit,
    )
    return CursorPage[JobEvent].of(
        [event_object(event) for event in found.rows], has_more=found.has_more
    )
