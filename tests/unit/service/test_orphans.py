"""What no row names goes, and nothing else."""

import io
from typing import Any

import pytest
from fastapi.testclient import TestClient
from kept import Kept
from sqlalchemy.orm import Session, sessionmaker

from service.orphans import Orphans

pytestmark = pytest.mark.on_both_stores


def test_what_two_looks_find_without_a_row_is_removed(
    client: TestClient, job_id: str, worker: Any, sessions: sessionmaker[Session], kept: Kept
) -> None:
    worker.checkpoint(job_id, 1)
    upload_id = client.post(
        "/v1/uploads",
        json={
            "bytes": 1,
            "filename": "a.jsonl",
            "mime_type": "application/jsonl",
            "purpose": "fine-tune",
        },
    ).json()["id"]
    client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("upload", b"x")})
    named = kept.names()
    store, orphans = worker.artifacts, Orphans()
    store.put_upload("file-orphan", io.BytesIO(b"x"), max_bytes=1)
    store.put_part("upload_orphan", "part_1", io.BytesIO(b"x"), max_bytes=1)
    kept.write(f"jobs/{job_id}/attempt-1/step-2/state/half", b"by a zombie")
    store.put_upload("file-late", io.BytesIO(b"x"), max_bytes=1)

    orphans.look(sessions, store)
    assert len(kept.names()) == len(named) + 4, "its row may be on the way"
    store.delete_upload("file-late")
    orphans.look(sessions, store)
    assert kept.names() == named

    store.put_upload("file-late", io.BytesIO(b"x"), max_bytes=1)
    orphans.look(sessions, store)
    assert kept.names() == sorted([*named, "files/file-late"])


def test_a_database_that_names_nothing_is_not_this_stores(
    sessions: sessionmaker[Session], worker: Any, kept: Kept
) -> None:
    """Looked at with another database, every byte would be an orphan."""
    store, orphans = worker.artifacts, Orphans()
    store.put_upload("file-of-another", io.BytesIO(b"x"), max_bytes=1)
    for _ in range(3):
        orphans.look(sessions, store)
    assert kept.names() == ["files/file-of-another"]
