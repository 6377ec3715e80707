"""A bucket that does not answer, as clients and the person on call see it."""

from collections.abc import Callable
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from gate import Gate
from kept import Kept
from sqlalchemy.orm import Session, sessionmaker

from service.tidy import tidy

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def artifacts_at(gated_bucket: dict[str, str]) -> dict[str, str]:
    return gated_bucket


def assert_away(response: Any) -> None:
    error = error_of(response, 503)
    assert error["code"] == "artifact_store_unavailable"
    assert "artifact store" in error["message"]
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["x-should-retry"] == "true"


def test_nothing_is_acknowledged_and_readiness_names_it(
    client: TestClient, gate: Gate, upload: Callable[..., str], job_id: str, worker: Any
) -> None:
    archive, file_id = worker.checkpoint(job_id, 1), upload()
    files = [file["id"] for file in client.get("/v1/files").json()["data"]]
    assert client.get("/readyz").json()["checks"]["artifacts"] == "ok"
    gate.cut()
    sent = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", b"{}\n")}}
    assert_away(client.post("/v1/files", **sent))  # type: ignore[arg-type]
    assert_away(client.get(f"/v1/files/{file_id}/content"))
    assert_away(client.get(f"{JOBS}/{job_id}/adapter"))
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "cannot be used: no connection" in ready.json()["checks"]["artifacts"]
    assert ready.json()["checks"]["database"] == "ok"
    gate.open()
    assert client.get("/readyz").status_code == 200
    assert [file["id"] for file in client.get("/v1/files").json()["data"]] == files
    assert client.get(f"{JOBS}/{job_id}/adapter").content == archive


def test_what_is_deleted_meanwhile_is_gone_at_once_and_its_bytes_later(
    client: TestClient,
    gate: Gate,
    upload: Callable[..., str],
    worker: Any,
    sessions: sessionmaker[Session],
    kept: Kept,
) -> None:
    file_id = upload()
    gate.cut()
    assert client.delete(f"/v1/files/{file_id}").json()["deleted"]
    gate.open()
    error_of(client.get(f"/v1/files/{file_id}"), 404)
    assert kept.names() != []
    tidy(sessions, worker.artifacts)
    assert kept.names() == []
