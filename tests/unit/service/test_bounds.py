"""How much may wait or be under way: refused beyond it, with the numbers and what to do."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from envelope import error_of
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs import disk
from jobs.db import now, transaction
from jobs.models import Upload
from jobs.settings import GB
from jobs.store import attempts
from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings

Sessions = sessionmaker[Session]

JOBS = "/v1/fine_tuning/jobs"
UPLOADS = "/v1/uploads"
CHAT = "/v1/chat/completions"
ANNOUNCED = {"bytes": 9, "filename": "a", "mime_type": "text/plain", "purpose": "fine-tune"}


def busy(answer: Any, code: str, *words: str) -> None:
    error = error_of(answer, 429)
    assert error["code"] == code
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    for word in words:
        assert word in error["message"]


class TestWaitingJobs:
    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        return settings.model_copy(update={"max_project_waiting_jobs": 2, "max_waiting_jobs": 3})

    def test_of_a_project_and_in_all(
        self, client: TestClient, body: Any, other_key: IssuedKey, upload: Any, worker: Any
    ) -> None:
        first = client.post(JOBS, json=body).json()["id"]
        assert client.post(JOBS, json=body).status_code == 200
        busy(client.post(JOBS, json=body), "queue_full", "2 jobs of this project", "of 2")
        worker.claim(first)
        third = client.post(JOBS, json=body)
        assert third.status_code == 200
        client.headers["Authorization"] = f"Bearer {other_key.secret}"
        theirs = {**body, "training_file": upload(), "validation_file": upload()}
        assert client.post(JOBS, json=theirs).status_code == 200
        busy(client.post(JOBS, json=theirs), "queue_full", "3 jobs wait", "on this server")

    def test_a_paused_job_waits_until_the_line_is_shorter(
        self, client: TestClient, body: Any, worker: Any, sessions: Sessions
    ) -> None:
        paused = client.post(JOBS, json=body).json()["id"]
        claimed = worker.claim(paused)
        with transaction(sessions) as session:
            attempts.limited(session, claimed, "It has reached its limit.")
        waiting = [client.post(JOBS, json=body).json()["id"] for _ in range(2)]
        busy(client.post(f"{JOBS}/{paused}/resume"), "queue_full")
        client.post(f"{JOBS}/{waiting[0]}/cancel")
        assert client.post(f"{JOBS}/{paused}/resume").json()["status"] == "queued"

    @pytest.mark.on_both_databases
    def test_many_at_once_are_no_more_than_may_wait(self, client: TestClient, body: Any) -> None:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: client.post(JOBS, json=body), range(6)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * 2 + [429] * 4


class TestUnfinishedUploads:
    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        return settings.model_copy(update={"max_project_uploads": 2})

    @pytest.mark.on_both_databases
    def test_of_a_project(
        self, client: TestClient, sessions: Sessions, other_key: IssuedKey
    ) -> None:
        first, second = (client.post(UPLOADS, json=ANNOUNCED).json()["id"] for _ in range(2))
        refused = client.post(UPLOADS, json=ANNOUNCED)
        busy(refused, "too_many_uploads", "2 unfinished uploads", "of 2", "cancel one")
        client.post(f"{UPLOADS}/{first}/cancel")
        assert client.post(UPLOADS, json=ANNOUNCED).status_code == 200
        busy(client.post(UPLOADS, json=ANNOUNCED), "too_many_uploads")
        with transaction(sessions) as session:
            over = update(Upload).where(Upload.id == second).values(expires_at=now() - 1)
            session.execute(over)
        assert client.post(UPLOADS, json=ANNOUNCED).status_code == 200
        client.headers["Authorization"] = f"Bearer {other_key.secret}"
        assert client.post(UPLOADS, json=ANNOUNCED).status_code == 200


class TestBodies:
    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        return settings.model_copy(update={"max_project_bodies": 2, "max_bodies": 3})

    def test_of_a_project_and_in_all(
        self, app: FastAPI, client: TestClient, key: IssuedKey, other_key: IssuedKey
    ) -> None:
        bodies = app.state.resources.bodies
        file = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"x")}}
        with ExitStack() as under_way:
            for _ in range(2):
                under_way.enter_context(bodies.taken(key.project_id))
            for answer in (client.post(UPLOADS, json=ANNOUNCED), client.post("/v1/files", **file)):
                busy(answer, "rate_limit_exceeded", "2 request bodies of this project", "fewer")
            under_way.enter_context(bodies.taken(other_key.project_id))
            client.headers["Authorization"] = f"Bearer {other_key.secret}"
            answer = client.post(UPLOADS, json=ANNOUNCED)
            error = error_of(answer, 503)
            assert (error["code"], answer.headers["retry-after"]) == ("overloaded", "2")
            assert client.get("/v1/files").status_code == 200
        for _ in range(4):  # each gives its place back, whatever it is answered
            assert client.post(UPLOADS, json=ANNOUNCED).status_code == 200
            assert client.post("/v1/files", **file).status_code == 200
            assert client.post(UPLOADS, json={}).status_code == 400
            assert client.post("/v1/files", data={"purpose": "x"}).status_code == 400


class TestChats:
    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        return settings.model_copy(update={"max_project_chats": 2, "serving_start_seconds": 0.0})

    def test_of_a_project(
        self, app: FastAPI, client: TestClient, key: IssuedKey, other_key: IssuedKey
    ) -> None:
        body = {"model": "honed/starter", "messages": [{"role": "user", "content": "Hi"}]}
        chats = app.state.resources.chats
        for _ in range(3):  # nothing serves here: each gives its place back
            for is_stream in (True, False):
                answer = client.post(CHAT, json={**body, "stream": is_stream})
                assert error_of(answer, 503)["code"] == "serving_unavailable"
        with chats.taken(key.project_id), chats.taken(key.project_id):
            busy(client.post(CHAT, json=body), "rate_limit_exceeded", "2 chat requests", "fewer")
            client.headers["Authorization"] = f"Bearer {other_key.secret}"
            answer = client.post(CHAT, json=body)
            assert error_of(answer, 503)["code"] == "serving_unavailable"


class TestTheReserveOfTheDisk:
    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        return settings.model_copy(update={"disk_reserve_gb": 2.0})

    @pytest.fixture
    def free(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Says how much room the disk has."""

        def free(gigabytes: float) -> None:
            room = disk.Room(total=100 * GB, free=int(gigabytes * GB))
            monkeypatch.setattr(disk, "room", lambda folder: room)

        return free

    def test_is_left_to_jobs_that_run(
        self, client: TestClient, body: Any, job_id: str, worker: Any, sessions: Sessions, free: Any
    ) -> None:
        upload_id = client.post(UPLOADS, json=ANNOUNCED).json()["id"]
        claimed = worker.claim(job_id)
        paused = client.post(JOBS, json=body).json()["id"]
        resting = worker.claim(paused)
        with transaction(sessions) as session:
            attempts.limited(session, resting, "It has reached its limit.")
        file = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"x")}}
        part = {"files": {"data": ("p", b"x")}}
        key = {"Idempotency-Key": "k"}
        made = client.post("/v1/files", headers=key, **file).json()
        free(1.9)
        for answer in (
            client.post("/v1/files", **file),
            client.post(UPLOADS, json=ANNOUNCED),
            client.post(f"{UPLOADS}/{upload_id}/parts", **part),
            client.post(JOBS, json=body),
            client.post(f"{JOBS}/{paused}/resume"),
        ):
            error = error_of(answer, 503)
            assert error["code"] == "storage_full"
            assert "1.90 GB" in error["message"]
            assert "2.00 GB" in error["message"]
            assert answer.headers["retry-after"] == "60"
            assert answer.headers["x-should-retry"] == "false"
        # What was answered is answered again, and what runs goes on.
        assert client.post("/v1/files", headers=key, **file).json() == made
        worker.checkpoint(job_id, 1)
        with transaction(sessions) as session:
            attempts.fence(session, claimed, step=1)
        assert client.get(f"{JOBS}/{job_id}/adapter").status_code == 200
        free(2.1)
        assert client.post("/v1/files", **file).status_code == 200
        assert client.post(JOBS, json=body).status_code == 200

    def test_counts_what_is_announced(self, client: TestClient, free: Any) -> None:
        free(3.0)
        large = {**ANNOUNCED, "bytes": int(1.1 * GB)}
        assert error_of(client.post(UPLOADS, json=large), 503)["code"] == "storage_full"
        assert client.post(UPLOADS, json={**ANNOUNCED, "bytes": int(0.9 * GB)}).status_code == 200

    def test_is_looked_at_again_while_a_file_comes(
        self, client: TestClient, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.bodies.LOOK_EVERY_BYTES", 10)
        looks: list[int] = []

        def shrinking(folder: Any) -> disk.Room:
            looks.append(len(looks))
            # There is room before the body comes: three folders are looked at each time.
            return disk.Room(total=100 * GB, free=(3 if len(looks) <= 3 else 1) * GB)

        monkeypatch.setattr(disk, "room", shrinking)
        file = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"x" * 1000)}}
        assert error_of(client.post("/v1/files", **file), 503)["code"] == "storage_full"
        assert len(looks) > 3
        assert not list(settings.artifacts_dir.rglob("*"))

    def test_parts_need_no_room_for_the_whole_where_they_are_only_spooled(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch, settings: ServiceSettings
    ) -> None:
        small = Path(tempfile.gettempdir())

        def room(folder: Path) -> disk.Room:
            return disk.Room(total=100 * GB, free=(2 if folder == small else 50) * GB)

        monkeypatch.setattr(disk, "room", room)
        announced = {**ANNOUNCED, "bytes": 8 * GB}
        assert client.post(UPLOADS, json=announced).status_code == 200

    def test_a_bucket_is_on_no_disk_of_the_service(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch, settings: ServiceSettings
    ) -> None:
        full = disk.Room(total=100 * GB, free=2 * GB)
        monkeypatch.setattr(disk, "room", lambda folder: full)
        announced = {**ANNOUNCED, "bytes": 8 * GB}
        assert client.post(UPLOADS, json=announced).status_code == 503
        monkeypatch.setattr(settings, "artifacts_url", "s3://bucket/prefix")
        assert client.post(UPLOADS, json=announced).status_code == 200

    def test_is_a_tenth_of_a_small_disk(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for free, status in ((90_000, 503), (110_000, 200)):
            room = disk.Room(total=1_000_000, free=free)
            monkeypatch.setattr(disk, "room", lambda folder, room=room: room)
            assert client.post(UPLOADS, json=ANNOUNCED).status_code == status


def test_the_room_of_a_folder_that_is_still_to_be_made(tmp_path: Any) -> None:
    found = disk.room(tmp_path / "not" / "there" / "yet")
    assert 0 < found.free <= found.total
