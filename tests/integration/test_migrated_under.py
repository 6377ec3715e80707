"""A database that is migrated under a worker whose trainer is at work."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text
from supervised import Sessions, queued_job, row
from waiting import wait_for
from workers import Start, posted

from jobs import schema
from jobs.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.on_both_databases]

SHORT = {"batch_size": 1, "group_size": 2, "max_completion_tokens": 4, "max_steps": 1}
LONG = SHORT | {"max_steps": 500, "checkpoint_interval": 500}


def be_at(engine: Engine, version: str, *statements: str) -> None:
    """What a newer installation's migration does."""
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
        connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})


def test_a_worker_goes_on_beside_what_only_adds_and_claims_nothing_beside_the_rest(
    client: TestClient,
    engine: Engine,
    sessions: Sessions,
    worker_process: Start,
    tmp_path: Path,
) -> None:
    number = schema.current_version(engine)
    with worker_process():
        job_id = posted(client, **LONG)
        wait_for(lambda: row(sessions, job_id).step >= 2, seconds=120, what="the second step")
        be_at(engine, f"9998_since_{number}", "ALTER TABLE jobs ADD COLUMN mood TEXT")
        step = row(sessions, job_id).step
        wait_for(lambda: row(sessions, job_id).step > step + 1, seconds=120, what="more steps")
        client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").raise_for_status()
        later = posted(client, **SHORT)
        ended = (Status.SUCCEEDED, Status.FAILED)
        wait_for(lambda: row(sessions, later).status in ended, seconds=120, what="the next job")
        assert row(sessions, later).status == Status.SUCCEEDED

        be_at(engine, "9999")
        waiting = queued_job(sessions)  # as if by the newer service: this one takes none
        wait_for(
            lambda: "nothing is claimed: The database is at version 9999" in log(tmp_path),
            seconds=60,
            what="the worker's sentence",
        )
        assert client.get("/readyz").status_code == 503
        assert (row(sessions, waiting).status, row(sessions, waiting).attempt) == (Status.QUEUED, 0)
    assert (row(sessions, job_id).status, row(sessions, job_id).attempt) == (Status.CANCELLED, 1)


def log(folder: Path) -> str:
    return (folder / "log").read_text()
