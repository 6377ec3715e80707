"""A cancel answers when the job has stopped, or after a while as it is."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from waiting import wait_for

from jobs.db import transaction
from jobs.models import Job
from jobs.status import Reason, Status
from jobs.store import attempts
from service.settings import ServiceSettings

JOBS = "/v1/fine_tuning/jobs"


def test_cancel_answers_when_the_running_job_has_stopped(
    client: TestClient,
    job_id: str,
    worker: Any,
    sessions: sessionmaker[Session],
    settings: ServiceSettings,
) -> None:
    claimed = worker.claim(job_id)
    settings.cancel_seconds = 60.0

    def stop() -> None:
        wait_for(is_asked, seconds=30, what="the request")
        with transaction(sessions) as session:
            attempts.conclude(session, claimed, Status.CANCELLED, reason=Reason.CANCELLED_BY_USER)

    def is_asked() -> bool:
        with sessions() as session:
            query = select(Job.cancel_requested_at).where(Job.id == job_id)
            return session.scalar(query) is not None

    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(stop)
        answer = client.post(f"{JOBS}/{job_id}/cancel").json()
        stopped.result(30)
    assert (answer["status"], answer["error"]) == ("cancelled", None)


def test_cancel_of_a_job_that_does_not_stop_is_a_request(
    client: TestClient, job_id: str, worker: Any, sessions: sessionmaker[Session]
) -> None:
    worker.claim(job_id)
    assert client.post(f"{JOBS}/{job_id}/cancel").json()["status"] == "running"
    with sessions() as session:
        assert session.scalar(select(Job.cancel_requested_at).where(Job.id == job_id))
