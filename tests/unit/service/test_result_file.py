"""The result file over HTTP, where the service is the one that ends the job."""

from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import now, transaction
from jobs.models import Job
from jobs.status import Status
from jobs.store import attempts, metrics
from service import sweeper
from service.settings import ServiceSettings

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def held(job_id: str, worker: Any, sessions: sessionmaker[Session]) -> Any:
    """The claim of a running job with one step."""
    claimed = worker.claim(job_id)
    with transaction(sessions) as session:
        metrics.put(session, job_id, step=1, attempt=1, data={"train_mean_reward": 0.5})
    return claimed


def test_a_paused_job_that_is_cancelled(
    client: TestClient, held: Any, sessions: sessionmaker[Session]
) -> None:
    url = f"{JOBS}/{held.job_id}"
    client.post(f"{url}/pause")
    with transaction(sessions) as session:
        attempts.stopped(session, held)
    assert client.get(url).json()["result_files"] == []
    job = client.post(f"{url}/cancel").json()
    assert (job["status"], job["error"]) == ("cancelled", None)
    (file_id,) = job["result_files"]
    file = client.get(f"/v1/files/{file_id}").json()
    assert (file["purpose"], file["filename"]) == ("fine-tune-results", "step_metrics.csv")
    assert [one["id"] for one in client.get("/v1/files?purpose=fine-tune-results").json()["data"]]
    answer = client.get(f"/v1/files/{file_id}/content")
    assert answer.text == (
        "step,train_mean_reward,full_valid_mean_reward,completion_tokens_mean,"
        "reasoning_tokens_mean,mean_unresponsive_rewards\n1,0.5,,,,\n"
    )
    assert client.delete(f"/v1/files/{file_id}").json()["deleted"] is True
    error_of(client.get(f"/v1/files/{file_id}"), 404)


def test_a_job_whose_last_worker_was_lost(
    client: TestClient, held: Any, sessions: sessionmaker[Session], settings: ServiceSettings
) -> None:
    with transaction(sessions) as session:
        session.execute(update(Job).values(lease_expires_at=now() - 1))

    class Silent:
        def ring(self) -> None: ...

    last = settings.model_copy(update={"max_losses": 1})
    sweeper.sweep(sessions, Silent(), last)  # type: ignore[arg-type]
    job = client.get(f"{JOBS}/{held.job_id}").json()
    assert job["status"] == Status.FAILED
    (file_id,) = job["result_files"]
    assert client.get(f"/v1/files/{file_id}/content").text.endswith("\n1,0.5,,,,\n")
