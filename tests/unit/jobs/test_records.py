"""What a job leaves behind: events without gaps, one metrics row a step, checkpoints, samples."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.errors import CheckpointNotFound
from jobs.store import checkpoints, events, metrics

pytestmark = pytest.mark.on_both_databases

Sessions = sessionmaker[Session]
MakeJob = Callable[..., str]


def put_checkpoint(
    sessions: Sessions, job_id: str, step: int, attempt: int = 1, reward: float | None = 0.5
) -> str:
    with transaction(sessions) as session:
        return checkpoints.put(
            session,
            job_id,
            step=step,
            attempt=attempt,
            folder=f"jobs/{job_id}/attempt-{attempt}/step-{step}",
            archive_sha256="0" * 64,
            archive_bytes=10,
            metrics={"valid_reward_mean": reward},
        ).id


def test_events_have_no_gaps_under_concurrent_writers_and_rollbacks(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job()

    def write(index: int) -> None:
        with transaction(sessions) as session:
            events.add(session, job_id, f"event {index}")
        with sessions() as session, session.begin() as failed:
            events.add(session, job_id, "never happened")
            failed.rollback()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    with sessions() as session:
        page = events.list_page(session, job_id, after_seq=None, limit=100, newest_first=False)
    assert [event.seq for event in page.rows] == list(range(1, len(page.rows) + 1))
    assert {f"event {index}" for index in range(40)} <= {event.message for event in page.rows}
    assert "never happened" not in {event.message for event in page.rows}


def test_event_pages_go_both_ways(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()  # two events: created, validated
    with transaction(sessions) as session:
        events.add(session, job_id, "third", level="warn", type="metrics", data={"step": 1})
    with sessions() as session:
        newest = events.list_page(session, job_id, after_seq=None, limit=2)
        older = events.list_page(session, job_id, after_seq=2, limit=2)
        onward = events.list_page(session, job_id, after_seq=1, limit=9, newest_first=False)
    assert ([event.seq for event in newest.rows], newest.has_more) == ([3, 2], True)
    assert ([event.seq for event in older.rows], older.has_more) == ([1], False)
    assert [event.seq for event in onward.rows] == [2, 3]
    assert newest.rows[0].data == {"step": 1}


def test_a_step_redone_replaces_its_row(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    for attempt, reward in ((1, 0.1), (2, 0.2)):
        with transaction(sessions) as session:
            metrics.put(session, job_id, step=4, attempt=attempt, data={"reward": reward})
            metrics.put_samples(
                session, job_id, step=4, attempt=attempt, samples=[{"reward": reward}]
            )
    with sessions() as session:
        (row,) = metrics.list_after(session, job_id, after_step=-1, limit=10).rows
        samples = metrics.samples_of(session, job_id, 4)
    assert (row.attempt, row.data) == (2, {"reward": 0.2})
    assert samples is not None
    assert samples.samples == [{"reward": 0.2}]


def test_numbers_that_are_none_are_stored_as_null(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    odd = {"kl": float("nan"), "parts": [float("inf"), 1.0, {"x": float("-inf")}], "n": 3}
    with transaction(sessions) as session:
        metrics.put(session, job_id, step=0, attempt=1, data=odd)
    with sessions() as session:
        stored = session.scalar(text("SELECT CAST(data AS text) FROM metrics"))
    assert stored == '{"kl": null, "parts": [null, 1.0, {"x": null}], "n": 3}'


def test_metrics_after_a_step_in_order(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    with transaction(sessions) as session:
        for step in (2, 0, 1, 3):
            data = {"reward": step / 10, **({"valid_reward_mean": 0.5} if step % 2 else {})}
            metrics.put(session, job_id, step=step, attempt=1, data=data)
    with sessions() as session:
        first = metrics.list_after(session, job_id, after_step=-1, limit=2)
        rest = metrics.list_after(session, job_id, after_step=1, limit=10)
        series = metrics.series(session, job_id, "valid_reward_mean")
    assert ([row.step for row in first.rows], first.has_more) == ([0, 1], True)
    assert ([row.step for row in rest.rows], rest.has_more) == ([2, 3], False)
    assert series == [(1, 0.5), (3, 0.5)]


def test_latest_samples(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    with sessions() as session:
        assert metrics.latest_samples(session, job_id) is None
    with transaction(sessions) as session:
        for step in (5, 9, 7):
            metrics.put_samples(session, job_id, step=step, attempt=1, samples=[])
    with sessions() as session:
        latest = metrics.latest_samples(session, job_id)
    assert latest is not None
    assert latest.step == 9


def test_checkpoints_newest_first_and_the_latest_is_the_adapter(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job()
    with sessions() as session:
        assert checkpoints.latest(session, job_id) is None
    made = {step: put_checkpoint(sessions, job_id, step) for step in (0, 10, 20)}
    with sessions() as session:
        latest = checkpoints.latest(session, job_id)
        page = checkpoints.list_page(session, job_id, after=None, limit=2)
        rest = checkpoints.list_page(session, job_id, after=made[10], limit=2)
    assert latest is not None
    assert latest.id == made[20]
    assert [checkpoint.step for checkpoint in page.rows] == [20, 10]
    assert page.has_more
    assert [checkpoint.step for checkpoint in rest.rows] == [0]


def test_a_checkpoint_redone_replaces_its_row(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    first = put_checkpoint(sessions, job_id, 10)
    second = put_checkpoint(sessions, job_id, 10, attempt=2)
    with sessions() as session:
        page = checkpoints.list_page(session, job_id, after=None, limit=9)
        assert [checkpoint.id for checkpoint in page.rows] == [second]
        with pytest.raises(CheckpointNotFound):
            checkpoints.get(session, job_id, first)


def test_resume_looks_at_states_newest_first(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    made = {step: put_checkpoint(sessions, job_id, step) for step in (0, 10, 20)}
    with transaction(sessions) as session:
        checkpoints.forget_state(session, made[0])
    with sessions() as session:
        assert [found.step for found in checkpoints.resumable(session, job_id)] == [20, 10]


def test_a_checkpoint_belongs_to_its_job(sessions: Sessions, make_job: MakeJob) -> None:
    checkpoint_id = put_checkpoint(sessions, make_job(), 10)
    with sessions() as session, pytest.raises(CheckpointNotFound):
        checkpoints.get(session, make_job(), checkpoint_id)


def retired(sessions: Sessions, job_id: str, *, keep_states: set[int]) -> list[int]:
    with transaction(sessions) as session:
        for checkpoint in checkpoints.resumable(session, job_id):
            if checkpoint.step not in keep_states:
                checkpoints.forget_state(session, checkpoint.id)
        return [checkpoint.step for checkpoint in checkpoints.retire(session, job_id)]


def left(sessions: Sessions, job_id: str) -> list[int]:
    with sessions() as session:
        page = checkpoints.list_page(session, job_id, after=None, limit=20)
        return [checkpoint.step for checkpoint in page.rows]


def test_the_best_three_the_newest_and_the_resumable_are_kept(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id, other = make_job(), make_job()
    put_checkpoint(sessions, other, 10, reward=0.0)
    rewards = {10: 0.9, 20: 0.2, 30: 0.8, 40: 0.85, 50: 0.1, 60: 0.3, 70: 0.0}
    for step, reward in rewards.items():
        put_checkpoint(sessions, job_id, step, reward=reward)
    put_checkpoint(sessions, job_id, 65, reward=None)  # saved between evaluations
    assert retired(sessions, job_id, keep_states={60, 70}) == [65, 50, 20]
    assert left(sessions, job_id) == [70, 60, 40, 30, 10]
    assert left(sessions, other) == [10]


def test_of_equals_the_newer_are_kept(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    for step in range(10, 60, 10):
        put_checkpoint(sessions, job_id, step)
    assert retired(sessions, job_id, keep_states=set()) == [20, 10]


def test_without_held_out_rows_every_checkpoint_is_kept(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job()
    for step in range(10, 60, 10):
        put_checkpoint(sessions, job_id, step, reward=None)
    assert retired(sessions, job_id, keep_states=set()) == []
