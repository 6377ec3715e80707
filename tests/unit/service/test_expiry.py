"""What is kept for some time only: gone after it, in batches, said so, and never while needed."""

from collections.abc import Callable
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import LocalStore
from jobs.db import now, transaction
from jobs.models import Checkpoint, Departed, File, Job, SampleSet
from jobs.store import metrics
from jobs.store.projects import IssuedKey
from service import tidy as tidying
from service.settings import ServiceSettings

pytestmark = pytest.mark.on_both_databases

Sessions = sessionmaker[Session]

JOBS = "/v1/fine_tuning/jobs"
DAY = 24 * 3600.0


@pytest.fixture
def settings(settings: ServiceSettings) -> ServiceSettings:
    kept = {f"keep_{kind}_days": 10.0 for kind in ("samples", "checkpoints", "unused_files")}
    return settings.model_copy(update=kept)


@pytest.fixture
def store(settings: ServiceSettings) -> LocalStore:
    return LocalStore(settings.artifacts_dir)


@pytest.fixture
def sweep(sessions: Sessions, settings: ServiceSettings, store: LocalStore) -> Callable[[], bool]:
    """A round of both; whether there may be more."""

    def sweep() -> bool:
        tidying.tidy(sessions, store)
        return tidying.expire(sessions, store, settings)

    return sweep


@pytest.fixture
def age(sessions: Sessions) -> Callable[..., None]:
    """Makes all rows of a table older, or those that a condition names."""

    def age(table: Any, *which: Any, days: float, column: str = "created_at") -> None:
        with transaction(sessions) as session:
            session.execute(update(table).where(*which).values({column: now() - days * DAY}))

    return age


def add_samples(sessions: Sessions, job_id: str, *steps: int) -> None:
    with transaction(sessions) as session:
        for step in steps:
            metrics.put_samples(session, job_id, step=step, attempt=1, samples=[{"n": step}])


def used(client: TestClient, kind: str) -> int:
    return int(client.get("/v1/files/storage").json()["by_kind"][kind])


def expired(answer: Any, *words: str) -> None:
    error = error_of(answer, 404)
    assert error["code"] == "expired"
    for word in words:
        assert word in error["message"]


def test_nothing_goes_by_itself(
    client: TestClient, job_id: str, worker: Any, sessions: Sessions, age: Any
) -> None:
    worker.finish(job_id, 1, 2)
    add_samples(sessions, job_id, 1)
    before = client.get("/v1/files/storage").json()["by_kind"]
    for table in (File, SampleSet, Job, Checkpoint):
        age(table, days=10_000)
    age(Job, days=10_000, column="finished_at")
    defaults = ServiceSettings(data_dir=worker.artifacts.root.parent)
    tidying.expire(sessions, worker.artifacts, defaults)
    assert client.get("/v1/files/storage").json()["by_kind"] == before


class TestSamples:
    def test_of_old_steps_go_and_of_new_ones_stay(
        self, client: TestClient, job_id: str, sessions: Sessions, age: Any, sweep: Any
    ) -> None:
        add_samples(sessions, job_id, 0, 1, 2)
        age(SampleSet, SampleSet.step < 2, days=11)
        sweep()
        url = f"{JOBS}/{job_id}/samples"
        expired(client.get(url, params={"step": 1}), "up to step 1", "metrics are kept")
        assert client.get(url).json()["step"] == 2
        assert error_of(client.get(url, params={"step": 3}), 404)["code"] == "not_found"
        assert used(client, "samples") == len('[{"n": 2}]')
        age(SampleSet, days=11)
        sweep()
        expired(client.get(url), "up to step 2")
        assert used(client, "samples") == 0

    def test_a_round_takes_so_many(
        self,
        client: TestClient,
        job_id: str,
        sessions: Sessions,
        age: Any,
        sweep: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(tidying, "BATCH", 2)
        add_samples(sessions, job_id, *range(5))
        age(SampleSet, days=11)
        for left in (3, 1, 0):
            assert sweep() is (left > 0)
            assert used(client, "samples") == left * len('[{"n": 0}]')

    def test_their_owner_deletes_them(
        self, client: TestClient, job_id: str, sessions: Sessions, worker: Any
    ) -> None:
        add_samples(sessions, job_id, 1)
        url = f"{JOBS}/{job_id}/samples"
        assert error_of(client.delete(url), 400)["code"] == "wrong_state"
        worker.finish(job_id, 1)
        size = used(client, "samples")
        deleted = {"id": job_id, "object": "fine_tuning.job.samples", "deleted": True}
        assert client.delete(url).json() == {**deleted, "bytes": size}
        assert used(client, "samples") == 0
        expired(client.get(url), "or they were deleted")
        assert client.delete(url).json() == {**deleted, "bytes": 0}


class TestCheckpoints:
    def not_evaluated(self, sessions: Sessions) -> None:
        with transaction(sessions) as session:
            session.execute(update(Checkpoint).values(metrics={"valid_reward_mean": None}))

    def test_beside_the_last_go_after_their_job_has_ended(
        self,
        client: TestClient,
        job_id: str,
        worker: Any,
        sessions: Sessions,
        other_key: IssuedKey,
        age: Any,
        sweep: Any,
    ) -> None:
        worker.admit(job_id)
        for step in (1, 2, 3):
            worker.checkpoint(job_id, step)
        self.not_evaluated(sessions)
        listed = client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
        last, shared, first = listed
        with transaction(sessions) as session:
            session.get_one(Job, job_id).status = "running"
            session.get_one(Job, job_id).step = 3
        age(Checkpoint, days=11)
        sweep()
        assert len(client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]) == 3
        with transaction(sessions) as session:
            session.get_one(Job, job_id).status = "succeeded"
        grant = f"/v1/fine_tuning/checkpoints/{shared['fine_tuned_model_checkpoint']}/permissions"
        granted = client.post(grant, json={"project_ids": [other_key.project_id]})
        assert granted.status_code == 200, granted.text
        age(Job, days=9, column="finished_at")
        sweep()
        assert len(client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]) == 3
        age(Job, days=11, column="finished_at")
        sweep()
        left = client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
        assert [one["id"] for one in left] == [last["id"], shared["id"]]
        expired(
            client.get(f"{JOBS}/{job_id}/checkpoints/{first['id']}/adapter"), "best and the last"
        )
        expired(client.get(f"/v1/models/{first['fine_tuned_model_checkpoint']}"), "has expired")
        assert client.get(f"{JOBS}/{job_id}/adapter").status_code == 200
        assert not (worker.artifacts.root / f"jobs/{job_id}/attempt-1/step-1").exists()

    def test_that_were_evaluated_are_the_best_and_stay(
        self, client: TestClient, job_id: str, worker: Any, age: Any, sweep: Any
    ) -> None:
        worker.finish(job_id, 1, 2, 3)
        age(Job, days=11, column="finished_at")
        sweep()
        assert len(client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]) == 3


class TestFiles:
    def test_that_no_job_uses_go(
        self, client: TestClient, job_id: str, upload: Any, age: Any, sweep: Any, worker: Any
    ) -> None:
        read = client.get(f"{JOBS}/{job_id}").json()["training_file"]
        old, new = upload(), upload()
        age(File, File.id != new, days=11)
        age(Job, days=11)
        sweep()
        expired(client.get(f"/v1/files/{old}"), "Upload it again")
        expired(client.get(f"/v1/files/{old}/content"))
        assert client.get(f"/v1/files/{read}/content").status_code == 200
        client.post(f"{JOBS}/{job_id}/cancel")
        age(Job, days=9)
        sweep()
        assert client.get(f"/v1/files/{read}/content").status_code == 200
        age(Job, days=11)
        sweep()
        expired(client.get(f"/v1/files/{read}"))
        assert client.get(f"/v1/files/{new}/content").status_code == 200
        assert [path.name for path in (worker.artifacts.root / "files").iterdir()] == [new]

    def test_that_have_expired_are_named_so_to_a_job_and_to_no_other_project(
        self, client: TestClient, body: Any, other_key: IssuedKey, age: Any, sweep: Any
    ) -> None:
        file_id = body["training_file"]
        age(File, File.id == file_id, days=1, column="expires_at")
        for _ in range(2):
            answer = client.post(JOBS, json=body)
            expired(answer, file_id)
            assert answer.json()["error"]["param"] == "training_file"
            sweep()
        client.headers["Authorization"] = f"Bearer {other_key.secret}"
        assert error_of(client.get(f"/v1/files/{file_id}"), 404)["code"] is None

    def test_results_of_jobs_stay(
        self, client: TestClient, upload: Any, age: Any, sweep: Any, sessions: Sessions
    ) -> None:
        file_id = upload()
        with transaction(sessions) as session:
            session.get_one(File, file_id).purpose = "fine-tune-results"
        age(File, days=11)
        sweep()
        assert client.get(f"/v1/files/{file_id}").status_code == 200


class Killed(BaseException):
    """As a process ends that is killed: nothing after it happens."""


class Dying(LocalStore):
    """A store in which the next removal is the process's last deed."""

    def delete_upload(self, file_id: str) -> None:
        raise Killed

    def remove(self, relative: str) -> None:
        raise Killed


def test_a_sweep_that_was_killed_half_way_is_made_good_by_the_next(
    client: TestClient,
    upload: Any,
    job_id: str,
    worker: Any,
    sessions: Sessions,
    settings: ServiceSettings,
    store: LocalStore,
    age: Any,
    sweep: Any,
) -> None:
    file_id = upload()
    age(File, File.id == file_id, days=11)
    worker.finish(job_id, 1, 2)
    worker.release(job_id)
    TestCheckpoints().not_evaluated(sessions)
    age(Job, days=11, column="finished_at")
    dying = Dying(store.root)
    with pytest.raises(Killed):
        tidying.expire(sessions, dying, settings)
    files_only = settings.model_copy(update={"keep_unused_files_days": None})
    with pytest.raises(Killed):
        tidying.expire(sessions, dying, files_only)
    folder = store.folder(f"jobs/{job_id}/attempt-1/step-1")
    assert store.upload_path(file_id).exists()
    assert folder.exists()
    expired(client.get(f"/v1/files/{file_id}"))
    sweep()
    assert not store.upload_path(file_id).exists()
    assert not folder.exists()
    with sessions() as session:
        assert {note.left_behind for note in session.query(Departed)} == {None}


def test_bytes_that_a_killed_deletion_left_are_swept(
    client: TestClient, upload: Any, sessions: Sessions, store: LocalStore, sweep: Any
) -> None:
    file_id = upload()
    content = store.upload_path(file_id).read_bytes()
    assert client.delete(f"/v1/files/{file_id}").status_code == 200
    store.upload_path(file_id).write_bytes(content)
    sweep()
    assert not store.upload_path(file_id).exists()
