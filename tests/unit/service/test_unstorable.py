"""Values that one of the databases cannot hold: refused with a sentence, never a 500."""

from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.errors import JobFailure
from jobs.status import Reason
from jobs.store import validation

pytestmark = pytest.mark.on_both_databases


@pytest.mark.parametrize(
    "path",
    ["/v1/files/%00", "/v1/fine_tuning/jobs/a%00b", "/v1/fine_tuning/jobs?after=%00"],
)
def test_an_id_with_a_nul_is_an_error_of_the_request(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (400, 404)


def test_a_nul_in_a_body_is_kept_or_refused(
    client: TestClient, body: dict[str, Any], database_url: str
) -> None:
    sent = {**body, "metadata": {"note": "a\x00b"}, "training_file": "file-\x00"}
    response = client.post("/v1/fine_tuning/jobs", json=sent)
    assert response.status_code in (400, 404)
    if database_url.startswith("postgresql"):
        assert "cannot contain NUL" in error_of(response, 400)["message"]


@pytest.mark.parametrize(("quoted", "told"), [("a\x00b", "a\ufffdb"), ("a\ud83db", "a?b")])
def test_a_failure_that_quotes_what_cannot_be_kept_is_told(
    client: TestClient, job_id: str, sessions: sessionmaker[Session], quoted: str, told: str
) -> None:
    failure = JobFailure(Reason.GRADER_FAILED, f"The grader said '{quoted}'.")
    with transaction(sessions) as session:
        assert validation.refuse(session, job_id, failure)
    job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert job["error"]["message"] == f"The grader said '{told}'."
    (event, *_) = client.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
    assert event["message"] == f"The grader said '{told}'."
