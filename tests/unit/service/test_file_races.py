"""A file that is deleted while a job is made of it: never a job without its file."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session, sessionmaker
from waiting import wait_for

from jobs import ids
from jobs.models import File, Job
from jobs.store import jobs
from jobs.store.projects import IssuedKey

# SQLite has one writer at a time.
pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

Sessions = sessionmaker[Session]
WAITING = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def waits_for_a_lock(sessions: Sessions) -> bool:
    with sessions() as session:
        return bool(session.scalar(WAITING))


def test_a_job_made_while_its_file_is_deleted_is_refused(
    client: TestClient, body: dict[str, Any], sessions: Sessions
) -> None:
    with sessions() as deleting, ThreadPoolExecutor() as pool:
        deleting.execute(delete(File).where(File.id == body["training_file"]))
        creation = pool.submit(client.post, "/v1/fine_tuning/jobs", json=body)
        wait_for(lambda: waits_for_a_lock(sessions), seconds=30, what="the creation to wait")
        deleting.commit()
        answer = creation.result(30)
    assert body["training_file"] in error_of(answer, 404)["message"]
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_a_file_deleted_while_a_job_is_made_of_it_is_kept(
    client: TestClient, key: IssuedKey, upload: Callable[..., str], sessions: Sessions
) -> None:
    file_id = upload()
    job = Job(id=ids.new_id(ids.JOB), project_id=key.project_id, spec={}, model="m", seed=1)
    job.training_file = file_id
    with sessions() as creating, ThreadPoolExecutor() as pool:
        creating.execute(select(File).where(File.id == file_id).with_for_update(read=True))
        jobs.add(creating, job)
        deletion = pool.submit(client.delete, f"/v1/files/{file_id}")
        wait_for(lambda: waits_for_a_lock(sessions), seconds=30, what="the deletion to wait")
        creating.commit()
        answer = deletion.result(30)
    assert f"in use by {job.id}" in answer.json()["error"]["message"]
    assert client.get(f"/v1/files/{file_id}/content").status_code == 200
