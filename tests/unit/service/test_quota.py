"""What a project may store: refused at the door beyond it, counted as it lies there, exactly."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import size_of
from jobs.db import transaction
from jobs.models import Project
from jobs.status import Status
from jobs.store import attempts, metrics
from jobs.store.projects import IssuedKey
from jobs.store.storage import UNLIMITED
from service.settings import ServiceSettings

Sessions = sessionmaker[Session]

STORAGE = "/v1/files/storage"
JOBS = "/v1/fine_tuning/jobs"
UPLOADS = "/v1/uploads"
ROW = b'{"messages": []}\n'
KEY, RETRIED = {"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"}

pytestmark = pytest.mark.on_both_databases


@pytest.fixture
def allow(sessions: Sessions, key: IssuedKey) -> Callable[[int | None], None]:
    """Gives the project a quota."""

    def allow(num_bytes: int | None) -> None:
        with transaction(sessions) as session:
            found = Project.id == key.project_id
            session.execute(update(Project).where(found).values(quota_bytes=num_bytes))

    return allow


@pytest.fixture
def kept(settings: ServiceSettings) -> Callable[[str], list[str]]:
    """The names of what lies in a folder of the artifact store."""

    def kept(folder: str) -> list[str]:
        root = settings.artifacts_dir / folder
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    return kept


def send(client: TestClient, content: bytes, **headers: str) -> Any:
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", content)}}
    return client.post("/v1/files", headers=headers, **form)


def begin(client: TestClient, num_bytes: int) -> Any:
    body = {"bytes": num_bytes, "filename": "a", "mime_type": "text/plain", "purpose": "fine-tune"}
    return client.post(UPLOADS, json=body)


def send_part(client: TestClient, upload_id: str, content: bytes) -> Any:
    return client.post(f"{UPLOADS}/{upload_id}/parts", files={"data": ("p", content)})


def refused(answer: Any, *words: str, param: str | None = None) -> None:
    error = error_of(answer, 403)
    assert (error["code"], error["param"]) == ("storage_quota_exceeded", param)
    for word in (*words, "DELETE /v1/files/{id}", "/cancel"):
        assert word in error["message"]


def test_all_that_is_stored_is_counted_as_it_lies_there(
    client: TestClient,
    settings: ServiceSettings,
    sessions: Sessions,
    worker: Any,
    job_id: str,
    allow: Any,
) -> None:
    allow(1_000_000)
    upload_id = begin(client, 8).json()["id"]
    send_part(client, upload_id, b"four")
    claimed = worker.claim(job_id)
    for step in (1, 2):
        worker.checkpoint(job_id, step)
    for samples in ([{"text": "a longer one, replaced"}], [{"text": "é"}]):
        with transaction(sessions) as session:
            metrics.put_samples(session, job_id, step=2, attempt=1, samples=samples)
    found = client.get(STORAGE).json()
    states = 2 * len(b"moments")
    assert found["by_kind"] == {
        "files": size_of(settings.artifacts_dir / "files"),
        "uploads": 4,
        "adapters": size_of(settings.artifacts_dir / "jobs") - states,
        "training_states": states,
        "samples": len('[{"text": "\\u00e9"}]'),
    }
    assert found["used_bytes"] == sum(found["by_kind"].values())
    assert found["limit_bytes"] - found["used_bytes"] == found["room_bytes"]

    with transaction(sessions) as session:
        attempts.conclude(session, claimed, Status.CANCELLED)
    worker.release(job_id)
    after = client.get(STORAGE).json()["by_kind"]
    assert after["training_states"] == 0
    assert after["adapters"] == size_of(settings.artifacts_dir / "jobs")


def test_without_a_quota_there_is_no_limit(
    client: TestClient, allow: Any, settings: ServiceSettings
) -> None:
    assert send(client, ROW).status_code == 200
    found = client.get(STORAGE).json()
    assert (found["limit_bytes"], found["room_bytes"]) == (None, None)
    assert found["used_bytes"] == len(ROW)


class TestTheDefault:
    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        return settings.model_copy(update={"project_quota_gb": 20e-9})

    def test_holds_unless_the_project_has_its_own(self, client: TestClient, allow: Any) -> None:
        assert client.get(STORAGE).json()["limit_bytes"] == 20
        refused(send(client, b"x" * 21), "21 bytes more", "0 of 20 bytes", param="file")
        allow(21)
        assert send(client, b"x" * 21).status_code == 200
        refused(send(client, b"x"), "21 of 21 bytes: 21 in files", param="file")
        allow(UNLIMITED)
        assert send(client, b"x").status_code == 200


def test_a_file_beyond_the_room_leaves_nothing(client: TestClient, allow: Any, kept: Any) -> None:
    allow(30)
    assert send(client, b"x" * 20).status_code == 200
    refused(send(client, b"y" * 11), "11 bytes more", "20 of 30", param="file")
    assert len(kept("files")) == 1
    assert kept("tmp") == []
    assert send(client, b"y" * 10).status_code == 200
    (first, _) = client.get("/v1/files?order=asc").json()["data"]
    refused(send(client, b"z"), param="file")
    client.delete(f"/v1/files/{first['id']}")
    assert send(client, b"z" * 20).status_code == 200


def test_an_answer_that_was_lost_is_given_again_though_there_is_no_room(
    client: TestClient, allow: Any
) -> None:
    allow(20)
    first = send(client, b"x" * 20, **KEY).json()
    assert send(client, b"x" * 20, **KEY).json() == first
    assert send(client, b"x" * 20, **RETRIED).json() == first
    refused(send(client, b"y" * 20, **RETRIED), "20 bytes more", param="file")
    refused(send(client, b"x" * 20, **{"Idempotency-Key": "other"}), param="file")


def test_uploads_in_parts(client: TestClient, allow: Any, kept: Any) -> None:
    allow(10)
    refused(begin(client, 11), "11 bytes more", param="bytes")
    one, two = (begin(client, 6).json()["id"] for _ in range(2))
    part_id = send_part(client, one, b"x" * 6).json()["id"]
    refused(send_part(client, two, b"y" * 5), "6 in unfinished uploads", param="data")
    assert kept("uploads") == [f"{one}/{part_id}"]
    # The file takes the place of its parts.
    done = client.post(f"{UPLOADS}/{one}/complete", json={"part_ids": [part_id]})
    assert done.status_code == 200, done.text
    assert client.get(STORAGE).json()["used_bytes"] == 6
    assert send_part(client, two, b"y" * 4).status_code == 200
    refused(send_part(client, two, b"y"), param="data")
    client.post(f"{UPLOADS}/{two}/cancel")
    assert client.get(STORAGE).json()["room_bytes"] == 4


def test_jobs_are_made_and_resumed_only_where_there_is_room(
    client: TestClient, body: Any, job_id: str, worker: Any, sessions: Sessions, allow: Any
) -> None:
    claimed = worker.claim(job_id)
    with transaction(sessions) as session:
        attempts.limited(session, claimed, "The project's storage is used up.")
    used = client.get(STORAGE).json()["used_bytes"]
    allow(used)
    refused(client.post(JOBS, json=body), f"{used} of {used} bytes")
    refused(client.post(f"{JOBS}/{job_id}/resume"), f"{used} of {used} bytes")
    assert client.get(f"{JOBS}/{job_id}").json()["status"] == "paused"
    allow(used + 1)
    assert client.post(f"{JOBS}/{job_id}/resume").json()["status"] == "queued"
    assert client.post(JOBS, json=body).status_code == 200


def test_many_at_once_never_store_more_than_the_quota(
    client: TestClient, allow: Any, kept: Any, settings: ServiceSettings
) -> None:
    allow(50)
    upload_id = begin(client, 40).json()["id"]

    def one(number: int) -> int:
        content = bytes([65 + number]) * 10
        if number % 2:
            return int(send_part(client, upload_id, content).status_code)
        return int(send(client, content).status_code)

    with ThreadPoolExecutor(12) as pool:
        statuses = sorted(pool.map(one, range(12)))
    assert statuses == [200] * 5 + [403] * 7
    assert client.get(STORAGE).json()["used_bytes"] == 50
    assert len(kept("files")) + len(kept("uploads")) == 5


def test_another_projects_bytes_are_its_own(
    client: TestClient, other_key: IssuedKey, allow: Any
) -> None:
    allow(0)
    refused(send(client, b"x"), "0 of 0 bytes", param="file")
    client.headers["Authorization"] = f"Bearer {other_key.secret}"
    assert send(client, b"x").status_code == 200
    assert client.get(STORAGE).json()["by_kind"]["files"] == 1
