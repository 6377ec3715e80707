"""A process that is suspended inside a transaction: PostgreSQL keeps its row locks."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sweeping import Sessions, lapse, rings, row
from waiting import wait_for

from jobs.status import Status
from jobs.store import attempts
from service.doorbell import Doorbell
from service.settings import ServiceSettings
from service.sweeper import sweep

# SQLite has one writer at a time and no row locks.
pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def other_job_id(client: TestClient, body: dict[str, Any]) -> str:
    """A second new job of the same project, in validation."""
    return str(client.post("/v1/fine_tuning/jobs", json=body).json()["id"])


def test_an_attempt_that_stands_still_holds_up_nobody_elses_job(
    job_id: str,
    other_job_id: str,
    worker: Any,
    sessions: Sessions,
    settings: ServiceSettings,
    doorbell: Doorbell,
) -> None:
    claimed = worker.claim(job_id)
    lapse(sessions, job_id)
    for message in (settings.broker_dir / "messages").iterdir():
        message.unlink()
    with sessions() as frozen:
        frozen.execute(text("SET LOCAL idle_in_transaction_session_timeout = '2s'"))
        attempts.fence(frozen, claimed)
        sweep(sessions, doorbell, settings)
        assert rings(settings) == 1
        assert row(sessions, other_job_id).rung_at is not None

        def requeued() -> bool:
            sweep(sessions, doorbell, settings)
            return row(sessions, job_id).status == Status.QUEUED

        wait_for(requeued, seconds=60, what="the server to end the frozen session")
        with pytest.raises(DBAPIError):
            frozen.commit()
