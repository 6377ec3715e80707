"""A walk through a list ends as it should, whatever leaves the list meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import LocalStore
from jobs.db import now, transaction
from jobs.models import Departed, File
from jobs.store import checkpoints, departed
from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings
from service.tidy import tidy

pytestmark = pytest.mark.on_both_databases

FILES, JOBS = "/v1/files", "/v1/fine_tuning/jobs"


def page_of(client: TestClient, url: str, **query: Any) -> list[str]:
    return [item["id"] for item in client.get(url, params=query).json()["data"]]


def test_files_are_deleted_as_they_are_listed(
    client: TestClient, upload: Callable[..., str], other_key: IssuedKey
) -> None:
    made = [upload() for _ in range(5)]
    walked, page = list[str](), page_of(client, FILES, limit=2)
    while page:
        for file_id in page:
            assert client.delete(f"{FILES}/{file_id}").status_code == 200
        walked += page
        page = page_of(client, FILES, limit=2, after=page[-1])
    assert walked == made[::-1]
    never = client.get(FILES, params={"after": "file-never"})
    assert error_of(never, 404)["param"] == "after"
    client.headers["Authorization"] = f"Bearer {other_key.secret}"
    others = client.get(FILES, params={"after": made[2]})
    assert error_of(others, 404)["param"] == "after"


def test_a_file_that_expired_is_a_place(
    client: TestClient,
    upload: Callable[..., str],
    sessions: sessionmaker[Session],
    settings: ServiceSettings,
) -> None:
    first, last = upload(), upload()
    with transaction(sessions) as session:
        session.execute(update(File).where(File.id == last).values(expires_at=now() - 1))
    assert page_of(client, FILES, after=last) == [first]
    tidy(sessions, LocalStore(settings.artifacts_dir))
    assert page_of(client, FILES, after=last) == [first]


def test_checkpoints_that_left_the_list_are_places(
    client: TestClient, job_id: str, worker: Any, sessions: sessionmaker[Session]
) -> None:
    url = f"{JOBS}/{job_id}/checkpoints"
    for step, reward in ((10, 0.9), (20, 0.8), (30, 0.7), (40, 0.1), (50, 0.2)):
        worker.checkpoint(job_id, step, reward=reward)
    newest, retired, *rest = page_of(client, url)
    worker.checkpoint(job_id, 50, reward=0.2)  # done again by another attempt
    with transaction(sessions) as session:
        checkpoints.retire(session, job_id, is_over=True)
    assert len(page_of(client, url)) == 4
    assert page_of(client, url, after=newest) == page_of(client, url, after=retired) == rest
    never = client.get(url, params={"after": "ftckpt_never"})
    assert error_of(never, 404)["param"] == "after"


def test_places_are_forgotten(
    client: TestClient,
    upload: Callable[..., str],
    sessions: sessionmaker[Session],
    settings: ServiceSettings,
) -> None:
    old, new = upload(), upload()
    client.delete(f"{FILES}/{old}")
    with transaction(sessions) as session:
        session.execute(update(Departed).values(removed_at=now() - departed.KEPT_SECONDS - 1))
    client.delete(f"{FILES}/{new}")
    with transaction(sessions) as session:
        departed.forget_old(session)
    # Not before it is known that their bytes are gone.
    assert client.get(FILES, params={"after": old}).status_code == 200
    tidy(sessions, LocalStore(settings.artifacts_dir))
    with transaction(sessions) as session:
        departed.forget_old(session)
    assert client.get(FILES, params={"after": new}).status_code == 200
    assert error_of(client.get(FILES, params={"after": old}), 404)["param"] == "after"
