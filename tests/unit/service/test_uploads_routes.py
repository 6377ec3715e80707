"""Files sent in parts, and files that end, over HTTP."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from kept import kept_by
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import open_store
from jobs.db import now, transaction
from jobs.models import File, Upload
from jobs.store import uploads
from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings
from service.tidy import tidy

pytestmark = pytest.mark.on_both_stores

UPLOADS = "/v1/uploads"
KEY, RETRIED = {"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"}


def begin(client: TestClient, num_bytes: int, **changes: Any) -> str:
    body = {
        "bytes": num_bytes,
        "filename": "rows.jsonl",
        "mime_type": "application/jsonl",
        "purpose": "fine-tune",
        **changes,
    }
    response = client.post(UPLOADS, json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


def send(client: TestClient, upload_id: str, content: bytes, **headers: str) -> Any:
    url = f"{UPLOADS}/{upload_id}/parts"
    return client.post(url, files={"data": ("upload", content)}, headers=headers)


def part(client: TestClient, upload_id: str, content: bytes) -> str:
    response = send(client, upload_id, content)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


def complete(client: TestClient, upload_id: str, *part_ids: str, **more: Any) -> Any:
    return client.post(f"{UPLOADS}/{upload_id}/complete", json={"part_ids": part_ids, **more})


@pytest.fixture
def kept(settings: ServiceSettings) -> Iterator[Any]:
    """The names of what lies in a folder of the artifact store."""
    with kept_by(settings) as found:

        def kept(folder: str) -> list[str]:
            return [name.removeprefix(f"{folder}/") for name in found.names(f"{folder}/")]

        yield kept


def test_parts_become_a_file_in_the_order_named(client: TestClient, kept: Any) -> None:
    content = b'{"n": 1}\n{"n": 2}\n'
    upload_id = begin(client, len(content))
    second, first = part(client, upload_id, content[7:]), part(client, upload_id, content[:7])
    part(client, upload_id, b"not named, not used")
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    answer = complete(client, upload_id, first, second, md5=digest.upper()).json()
    assert (answer["status"], answer["object"], answer["id"]) == ("completed", "upload", upload_id)
    assert answer["expires_at"] - answer["created_at"] == 3600
    file = answer["file"]
    assert client.get(f"/v1/files/{file['id']}").json() == file
    assert (file["bytes"], file["filename"], file["status"]) == (18, "rows.jsonl", "processed")
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert client.get(f"/v1/files/{file['id']}/content").content == content
    assert (kept("uploads"), kept("files")) == ([], [file["id"]])


class TestWhatCannotBeCompleted:
    @pytest.fixture
    def upload_id(self, client: TestClient) -> str:
        return begin(client, 4)

    def refused(self, answer: Any, param: str, word: str) -> None:
        error = error_of(answer, 400)
        assert (error["param"], word in error["message"]) == (param, True), error

    def test_another_size_order_or_content(
        self, client: TestClient, upload_id: str, kept: Any
    ) -> None:
        a, b, long = (part(client, upload_id, text) for text in (b"ab", b"cd", b"xyz"))
        digest = hashlib.md5(b"abcd", usedforsecurity=False).hexdigest()
        self.refused(complete(client, upload_id, a), "part_ids", "come to 2 bytes")
        self.refused(complete(client, upload_id, a, long), "part_ids", "come to 5 bytes")
        self.refused(complete(client, upload_id, a, a), "part_ids", "twice")
        self.refused(complete(client, upload_id, b, a, md5=digest), "md5", "MD5")
        self.refused(complete(client, upload_id), "part_ids", "at least 1")
        self.refused(complete(client, upload_id, a, b, md6="x"), "md6", "Did you mean `md5`")
        other = part(client, begin(client, 4), b"ab")
        self.refused(complete(client, upload_id, a, other), "part_ids", "has no part")
        assert kept("files") == []
        assert complete(client, upload_id, a, b, md5=digest).status_code == 200

    def test_what_is_completed_cancelled_or_expired(
        self, client: TestClient, sessions: sessionmaker[Session], kept: Any
    ) -> None:
        done, given_up, late = (begin(client, 2) for _ in range(3))
        part_ids = {upload_id: part(client, upload_id, b"ab") for upload_id in (done, given_up)}
        assert complete(client, done, part_ids[done]).status_code == 200
        cancelled = client.post(f"{UPLOADS}/{given_up}/cancel").json()
        assert (cancelled["status"], cancelled["file"]) == ("cancelled", None)
        part_ids[late] = part(client, late, b"ab")
        with transaction(sessions) as session:
            session.execute(update(Upload).where(Upload.id == late).values(expires_at=now() - 1))
        for upload_id, word in ((done, "completed"), (given_up, "cancelled"), (late, "expired")):
            for answer in (
                send(client, upload_id, b"ab"),
                complete(client, upload_id, part_ids[upload_id]),
                client.post(f"{UPLOADS}/{upload_id}/cancel"),
            ):
                self.refused(answer, "upload_id", f"is {word}")
                assert answer.json()["error"]["code"] == "wrong_state"
        assert kept("uploads") == [f"{late}/{part_ids[late]}"]


class TestLimits:
    def test_a_part(self, client: TestClient, monkeypatch: pytest.MonkeyPatch, kept: Any) -> None:
        monkeypatch.setattr("service.bodies.MAX_PART_BYTES", 1000)
        monkeypatch.setattr(uploads, "MAX_PART_BYTES", 1000)
        upload_id = begin(client, 1000)
        error = error_of(send(client, upload_id, b"x" * 1001), 413)
        assert (error["param"], "1,000 bytes" in error["message"]) == ("data", True)
        error_of(send(client, upload_id, b"x" * 100_000), 413)
        assert error_of(send(client, upload_id, b""), 400)["param"] == "data"
        for _ in range(2):
            part(client, upload_id, b"x" * 1000)  # what was announced, and one part again
        error = error_of(send(client, upload_id, b"x"), 400)
        assert "2,000 bytes" in error["message"]
        assert len(kept("uploads")) == 2

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"bytes": 0}, "bytes"),
            ({"bytes": 8 * 2**30 + 1}, "bytes"),
            ({"bytes": "10"}, "bytes"),
            ({"purpose": "fine-tune-results"}, "purpose"),
            ({"filename": ""}, "filename"),
            ({"mime_type": None}, "mime_type"),
            ({"mime_type": "text/csv; charset=utf-8"}, "mime_type"),
            ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor"),
            ({"expires_after": {"anchor": "created_at", "seconds": 3599}}, "expires_after.seconds"),
            ({"part_size": 3}, "part_size"),
        ],
    )
    def test_an_announcement(self, client: TestClient, change: Any, param: str) -> None:
        body = {"bytes": 1, "filename": "a", "mime_type": "text/plain", "purpose": "fine-tune"}
        assert error_of(client.post(UPLOADS, json=body | change), 400)["param"] == param

    def test_a_purpose_without_a_form_takes_any_type(self, client: TestClient) -> None:
        assert begin(client, 1, purpose="user_data", mime_type="text/csv")
        assert begin(client, 1, mime_type="text/jsonl")

    def test_other_fields(self, client: TestClient) -> None:
        url = f"{UPLOADS}/{begin(client, 1)}/parts"
        answer = client.post(url, data={"purpose": "x"}, files={"data": b"x"})
        assert error_of(answer, 400)["param"] == "purpose"
        assert error_of(client.post(url, files={"file": b"x"}), 400)["param"] == "data"


def test_another_projects_upload_is_not_there(
    client: TestClient, other_key: IssuedKey, kept: Any
) -> None:
    upload_id = begin(client, 2)
    client.headers["Authorization"] = f"Bearer {other_key.secret}"
    for answer in (
        send(client, upload_id, b"ab"),
        complete(client, upload_id, "part_x"),
        client.post(f"{UPLOADS}/{upload_id}/cancel"),
    ):
        assert error_of(answer, 404)["code"] == "upload_not_found"
    assert kept("uploads") == []


@pytest.mark.on_both_databases
class TestRepetitions:
    def test_each_creating_call(self, client: TestClient, kept: Any) -> None:
        body = {"bytes": 2, "filename": "a", "mime_type": "text/plain", "purpose": "fine-tune"}
        first, again = (client.post(UPLOADS, json=body, headers=KEY) for _ in range(2))
        assert first.json() == again.json()
        upload_id = first.json()["id"]
        assert error_of(client.post(UPLOADS, json=body | {"bytes": 3}, headers=KEY), 422)

        sent = [send(client, upload_id, b"ab", **headers).json() for headers in ({}, RETRIED)]
        assert sent[0] == sent[1]
        assert len(kept("uploads")) == 1

        url, parts = f"{UPLOADS}/{upload_id}/complete", {"part_ids": [sent[0]["id"]]}
        made = [client.post(url, json=parts, headers=headers) for headers in ({}, RETRIED)]
        assert made[0].json() == made[1].json()
        assert len(kept("files")) == 1

    def test_two_at_once_make_one_file(self, client: TestClient, kept: Any) -> None:
        upload_id = begin(client, 2)
        part_id = part(client, upload_id, b"ab")
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: complete(client, upload_id, part_id), range(6)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200
        assert set(statuses[1:]) <= {400, 410}
        (file_id,) = kept("files")
        assert [file["id"] for file in client.get("/v1/files").json()["data"]] == [file_id]


@pytest.mark.on_both_databases
class TestEnds:
    def make(self, client: TestClient, seconds: str) -> Any:
        return client.post(
            "/v1/files",
            data={
                "purpose": "user_data",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": seconds,
            },
            files={"file": ("a", b"x")},
        )

    def test_a_file_shows_its_end(self, client: TestClient) -> None:
        file = self.make(client, "3600").json()
        assert file["expires_at"] - file["created_at"] in (3600, 3601)
        sent = {"expires_after": {"anchor": "created_at", "seconds": 2_592_000}}
        upload_id = begin(client, 1, **sent)
        file = complete(client, upload_id, part(client, upload_id, b"x")).json()["file"]
        assert file["expires_at"] - file["created_at"] in (2_592_000, 2_592_001)

    @pytest.mark.parametrize("seconds", ["3599", "2592001", "x", "-1", ""])
    def test_out_of_range(self, client: TestClient, seconds: str) -> None:
        error = error_of(self.make(client, seconds), 400)
        assert error["param"] == "expires_after.seconds"

    def test_an_expired_file_is_gone_unless_a_job_reads_it(
        self,
        client: TestClient,
        sessions: sessionmaker[Session],
        settings: ServiceSettings,
        job_id: str,
        kept: Any,
    ) -> None:
        artifacts = open_store(settings)
        training = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["training_file"]
        idle, live = (self.make(client, "3600").json()["id"] for _ in range(2))
        tidy(sessions, artifacts)
        assert {idle, live, training} <= set(kept("files"))
        with transaction(sessions) as session:
            ended = File.id.in_([idle, training])
            session.execute(update(File).where(ended).values(expires_at=now() - 1))
        error_of(client.get(f"/v1/files/{idle}"), 404)
        shown = {file["id"] for file in client.get("/v1/files").json()["data"]}
        assert {idle, training}.isdisjoint(shown)
        assert live in shown

        tidy(sessions, artifacts)
        assert idle not in kept("files")
        assert training in kept("files")
        client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
        tidy(sessions, artifacts)
        assert training not in kept("files")
        assert live in kept("files")

    def test_an_upload_nobody_completed(
        self,
        client: TestClient,
        sessions: sessionmaker[Session],
        settings: ServiceSettings,
        kept: Any,
    ) -> None:
        late, live = begin(client, 9), begin(client, 9)
        parts = [f"{upload_id}/{part(client, upload_id, b'x')}" for upload_id in (late, live)]
        with transaction(sessions) as session:
            session.execute(update(Upload).where(Upload.id == late).values(expires_at=now() - 1))
        tidy(sessions, open_store(settings))
        assert kept("uploads") == parts[1:]
        error = error_of(client.post(f"{UPLOADS}/{late}/cancel"), 400)
        assert "expired" in error["message"]
