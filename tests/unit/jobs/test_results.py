"""The result file: plain CSV, made by whoever ends the job, and only then."""

import csv
import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from holding import Sessions, claimed, lose, row
from sqlalchemy import select, text, update

from jobs import results
from jobs.artifacts import LocalStore, Stored
from jobs.db import transaction
from jobs.models import File, Job
from jobs.status import Status
from jobs.store import attempts, files, metrics

pytestmark = pytest.mark.on_both_databases

ROWS = {
    0: {"valid_reward_mean": 0.25, "full_valid_mean_reward": 0.25},
    1: {"train_mean_reward": 0.5, "rewards/a,b/mean": 0.5, "kl": None},
    2: {"train_mean_reward": 0.75, "completion_tokens_mean": 7.5, "kl": 0.125},
}


def test_the_columns_and_the_cells() -> None:
    text = results.as_csv([{"step": step, **row} for step, row in ROWS.items()]).decode()
    table = list(csv.reader(io.StringIO(text)))
    assert table[0] == [
        *("step", "train_mean_reward", "full_valid_mean_reward", "completion_tokens_mean"),
        *("reasoning_tokens_mean", "mean_unresponsive_rewards"),
        *("kl", "rewards/a,b/mean", "valid_reward_mean"),
    ]
    assert table[1:] == [
        ["0", "", "0.25", "", "", "", "", "", "0.25"],
        ["1", "0.5", "", "", "", "", "", "0.5", ""],
        ["2", "0.75", "", "7.5", "", "", "0.125", "", ""],
    ]
    assert text.endswith("\n")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "artifacts")


def put_rows(sessions: Sessions, job_id: str) -> None:
    with transaction(sessions) as session:
        for step, data in ROWS.items():
            metrics.put(session, job_id, step=step, attempt=1, data=data)


def finish(sessions: Sessions, store: LocalStore, job_id: str, status: Status) -> None:
    held = claimed(sessions)
    with transaction(sessions) as session:
        attempts.conclude(session, held, status)
        results.write_if_over(session, store, job_id)


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_a_job_that_made_steps_ends_with_one(
    sessions: Sessions, make_job: Callable[..., str], store: LocalStore, status: Status
) -> None:
    job_id = make_job()
    put_rows(sessions, job_id)
    finish(sessions, store, job_id, status)
    job = row(sessions, job_id)
    assert job.result_file is not None
    with sessions() as session:
        file = files.get(session, job.project_id, job.result_file)
    content = store.upload_path(file.id).read_bytes()
    assert content.startswith(b"step,train_mean_reward,full_valid_mean_reward,")
    assert (file.purpose, file.num_bytes) == ("fine-tune-results", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()


def test_none_before_the_end_and_none_without_steps(
    sessions: Sessions, make_job: Callable[..., str], store: LocalStore
) -> None:
    job_id = make_job()
    claimed(sessions)
    put_rows(sessions, job_id)
    with transaction(sessions) as session:
        results.write_if_over(session, store, job_id)
    assert row(sessions, job_id).result_file is None
    bare = make_job()
    finish(sessions, store, bare, Status.FAILED)
    assert row(sessions, bare).result_file is None
    with sessions() as session:
        assert session.scalars(select(File)).all() == []


def test_an_end_that_was_rolled_back_is_made_again(
    sessions: Sessions, make_job: Callable[..., str], store: LocalStore
) -> None:
    job_id = make_job()
    put_rows(sessions, job_id)
    held = claimed(sessions)
    with sessions() as session:
        attempts.conclude(session, held, Status.SUCCEEDED)
        results.write_if_over(session, store, job_id)
        session.rollback()
    assert row(sessions, job_id).result_file is None
    assert lose(sessions, held) == Status.QUEUED
    with transaction(sessions) as session:
        metrics.put(session, job_id, step=3, attempt=2, data={"kl": 1.0})
        session.execute(update(Job).where(Job.id == job_id).values(claimable_at=0.0))
    finish(sessions, store, job_id, Status.SUCCEEDED)
    (path,) = (store.root / "files").iterdir()
    assert path.name == row(sessions, job_id).result_file
    assert len(path.read_text().splitlines()) == 5


def test_a_store_that_takes_its_time_ends_no_transaction(
    sessions: Sessions,
    make_job: Callable[..., str],
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL ends one that stands still; this one waits for another machine."""
    job_id = make_job()
    put_rows(sessions, job_id)
    put_upload = store.put_upload

    def slow(*arguments: Any, **named: Any) -> Stored:
        time.sleep(4)
        return put_upload(*arguments, **named)

    monkeypatch.setattr(store, "put_upload", slow)
    held = claimed(sessions)
    with transaction(sessions) as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 2000"))
        attempts.conclude(session, held, Status.SUCCEEDED)
        results.write_if_over(session, store, job_id)
    assert row(sessions, job_id).result_file is not None
