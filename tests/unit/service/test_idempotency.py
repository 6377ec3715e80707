"""Requests that arrive twice: one thing is made, and both get its answer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from envelope import error_of
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import now, transaction
from jobs.models import Creation
from jobs.store import creations, projects
from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings

pytestmark = pytest.mark.on_both_databases

Body = dict[str, Any]
JOBS, FILES = "/v1/fine_tuning/jobs", "/v1/files"
KEY, REPLAYED = "Idempotency-Key", "idempotent-replayed"
RETRIED = {"x-stainless-retry-count": "1"}


def jobs_of(client: TestClient) -> list[str]:
    return [job["id"] for job in client.get(JOBS, params={"limit": 100}).json()["data"]]


def age(sessions: sessionmaker[Session], seconds: float) -> None:
    with transaction(sessions) as session:
        session.execute(update(Creation).values(created_at=now() - seconds))


@pytest.fixture
def second_key(app: FastAPI, sessions: sessionmaker[Session]) -> Iterator[TestClient]:
    """A client with another key of the same project."""
    with transaction(sessions) as session:
        key = projects.issue_key(session, projects.ensure_project(session, "default"), "second")
    with TestClient(app, headers={"Authorization": f"Bearer {key.secret}"}) as client:
        yield client


@pytest.mark.parametrize("name", [KEY, "X-Idempotency-Key"])
def test_the_same_key_and_body_get_the_same_answer(
    client: TestClient, body: Body, name: str, worker: Any
) -> None:
    first = client.post(JOBS, json=body, headers={name: "k" * 255})
    assert REPLAYED not in first.headers
    worker.admit(first.json()["id"])  # the answer is the first one's, whatever became of the job
    second = client.post(JOBS, json=dict(reversed(body.items())), headers={name: "k" * 255})
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers[REPLAYED] == "true"
    assert second.headers["content-type"] == first.headers["content-type"]
    assert jobs_of(client) == [first.json()["id"]]


def test_the_same_key_with_another_request_is_refused(client: TestClient, body: Body) -> None:
    made = client.post(JOBS, json=body, headers={KEY: "k"}).json()["id"]
    other_body = client.post(JOBS, json={**body, "suffix": "x"}, headers={KEY: "k"})
    other_path = client.post(
        FILES, data={"purpose": "fine-tune"}, files={"file": b"{}\n"}, headers={KEY: "k"}
    )
    for answer in (other_body, other_path):
        error = error_of(answer, 422)
        assert (error["code"], error["param"]) == ("idempotency_key_reused", KEY)
        assert "'k'" in error["message"]
        assert made in error["message"]
    assert jobs_of(client) == [made]


@pytest.mark.parametrize("value", ["", "k" * 256])
def test_a_key_has_a_length(client: TestClient, body: Body, value: str) -> None:
    assert error_of(client.post(JOBS, json=body, headers={KEY: value}), 400)["param"] == KEY
    assert jobs_of(client) == []


def test_keys_are_a_projects_own(
    client: TestClient, second_key: TestClient, other_key: IssuedKey, body: Body, app: FastAPI
) -> None:
    first = client.post(JOBS, json=body, headers={KEY: "k"})
    assert second_key.post(JOBS, json=body, headers={KEY: "k"}).content == first.content
    stranger = {"Authorization": f"Bearer {other_key.secret}", KEY: "k"}
    answer = client.post(
        FILES, data={"purpose": "fine-tune"}, files={"file": b"{}\n"}, headers=stranger
    )
    assert answer.status_code == 200
    assert REPLAYED not in answer.headers


def test_a_refusal_is_not_kept(client: TestClient, body: Body) -> None:
    """What was wrong may be put right under the same key: the first try made nothing."""
    for wrong in ({"seed": -1}, {"training_file": "file-gone"}, {"model": "gone"}):
        answer = client.post(JOBS, json={**body, **wrong}, headers={KEY: "k"})
        assert answer.status_code in (400, 404)
    assert client.post(JOBS, json=body, headers={KEY: "k"}).status_code == 200
    assert len(jobs_of(client)) == 1


class TestFiles:
    def send(self, client: TestClient, **changes: Any) -> Any:
        sent = {"content": b"{}\n", "name": "a.jsonl", "purpose": "fine-tune", **changes}
        return client.post(
            FILES,
            data={"purpose": sent["purpose"]},
            files={"file": (sent["name"], sent["content"])},
            headers={KEY: "k"},
        )

    def test_one_file_and_its_bytes_once(
        self, client: TestClient, settings: ServiceSettings
    ) -> None:
        first, second = self.send(client), self.send(client)
        assert second.content == first.content
        assert second.headers[REPLAYED] == "true"
        (kept,) = (settings.artifacts_dir / "files").iterdir()
        assert kept.name == first.json()["id"]

    @pytest.mark.parametrize(
        "change", [{"content": b"{} \n"}, {"name": "b.jsonl"}, {"purpose": "evals"}]
    )
    def test_bytes_name_and_purpose_are_the_body(
        self, client: TestClient, settings: ServiceSettings, change: Body
    ) -> None:
        self.send(client)
        error_of(self.send(client, **change), 422)
        assert len(list((settings.artifacts_dir / "files").iterdir())) == 1

    def test_a_refusal_keeps_no_bytes(self, client: TestClient, settings: ServiceSettings) -> None:
        error_of(self.send(client, content=b""), 400)
        assert list((settings.artifacts_dir / "files").iterdir()) == []


class TestRetriesOfOpenAIsClient:
    """It sends no key, but says that it repeats a request."""

    def test_a_retry_gets_the_newest_jobs_answer(self, client: TestClient, body: Body) -> None:
        made = [client.post(JOBS, json=body).json()["id"] for _ in range(2)]
        again = client.post(JOBS, json=body, headers=RETRIED)
        assert again.json()["id"] == made[1]
        assert again.headers[REPLAYED] == "true"
        assert len(set(made)) == 2  # without the count, a second job is what is asked for

    def test_a_retry_of_what_never_arrived_makes_it(self, client: TestClient, body: Body) -> None:
        client.post(JOBS, json=body)
        answer = client.post(JOBS, json={**body, "seed": 5}, headers=RETRIED)
        assert REPLAYED not in answer.headers
        assert len(jobs_of(client)) == 2

    def test_not_another_keys_job_and_not_an_old_one(
        self,
        client: TestClient,
        second_key: TestClient,
        body: Body,
        sessions: sessionmaker[Session],
    ) -> None:
        client.post(JOBS, json=body)
        assert REPLAYED not in second_key.post(JOBS, json=body, headers=RETRIED).headers
        age(sessions, creations.RETRY_SECONDS + 1)
        assert REPLAYED not in client.post(JOBS, json=body, headers=RETRIED).headers

    def test_a_cancelled_job_is_not_the_answer(
        self, client: TestClient, body: Body, worker: Any
    ) -> None:
        waiting = client.post(JOBS, json=body, headers={KEY: "k"}).json()["id"]
        client.post(f"{JOBS}/{waiting}/cancel")
        assert client.post(JOBS, json=body, headers={KEY: "k"}).json()["id"] == waiting
        held = client.post(JOBS, json=body, headers=RETRIED).json()["id"]
        assert held != waiting
        worker.claim(held)
        client.post(f"{JOBS}/{held}/cancel")  # asked for, and not yet done
        fresh = client.post(JOBS, json=body, headers=RETRIED)
        assert REPLAYED not in fresh.headers
        assert client.post(JOBS, json=body, headers=RETRIED).content == fresh.content

    def test_a_deleted_file_is_not_the_answer(self, client: TestClient) -> None:
        def send() -> Any:
            sent = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", b"{}\n")}}
            return client.post(FILES, headers=RETRIED, **sent)

        first = send().json()["id"]
        assert send().json()["id"] == first
        client.delete(f"{FILES}/{first}")
        second = send().json()["id"]
        assert client.get(f"{FILES}/{second}").status_code == 200

    def test_a_cancelled_upload_is_not_the_answer(self, client: TestClient) -> None:
        announced = {"bytes": 3, "filename": "a.jsonl", "purpose": "evals", "mime_type": "x/y"}
        first = client.post("/v1/uploads", json=announced, headers=RETRIED).json()["id"]
        assert client.post("/v1/uploads", json=announced, headers=RETRIED).json()["id"] == first
        client.post(f"/v1/uploads/{first}/cancel")
        second = client.post("/v1/uploads", json=announced, headers=RETRIED).json()["id"]
        assert second != first

    @pytest.mark.parametrize("count", ["0", "", "x", "-1"])
    def test_no_retry(self, client: TestClient, body: Body, count: str) -> None:
        client.post(JOBS, json=body)
        answer = client.post(JOBS, json=body, headers={"x-stainless-retry-count": count})
        assert REPLAYED not in answer.headers


@pytest.mark.parametrize("headers", [{KEY: "k"}, RETRIED])
def test_at_the_same_time_one_is_made(
    app: FastAPI, client: TestClient, body: Body, headers: dict[str, str]
) -> None:
    def post(number: int) -> Any:
        return client.post(JOBS, json=body, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum(REPLAYED in answer.headers for answer in answers) == 7
    assert len(jobs_of(client)) == 1


def test_a_day_later_the_key_is_free(
    client: TestClient, body: Body, sessions: sessionmaker[Session]
) -> None:
    def post(value: str) -> Any:
        return client.post(JOBS, json=body, headers={KEY: value})

    post("old")
    age(sessions, creations.KEPT_SECONDS + 1)
    post("new")
    with transaction(sessions) as session:
        creations.forget_old(session)
        assert list(session.scalars(select(Creation.idempotency_key))) == ["new"]
    assert REPLAYED not in post("old").headers
    assert REPLAYED in post("new").headers
