"""Claim, lease and fence: one attempt at a time counts, whatever the others believe."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from holding import LOST, Sessions, claim, claimed, lose, messages, row, set_columns
from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.db import now, transaction
from jobs.errors import JobFailure, LeaseLost
from jobs.models import Event
from jobs.status import Phase, Reason, Status
from jobs.store import attempts, jobs, losses, metrics
from jobs.store.attempts import Claim

pytestmark = pytest.mark.on_both_databases

MakeJob = Callable[..., str]

NUM_THREADS = 8


def test_one_of_many_threads_claims_a_job(sessions: Sessions, make_job: MakeJob) -> None:
    for _ in range(5):
        job_id = make_job()
        start = threading.Barrier(NUM_THREADS)

        def race(index: int, start: threading.Barrier = start) -> Claim | None:
            start.wait()
            return claim(sessions, worker=f"w{index}")

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            won = [found for found in pool.map(race, range(NUM_THREADS)) if found]
        assert won == [Claim(job_id=job_id, attempt=1)]
        assert row(sessions, job_id).status == Status.RUNNING


def test_every_job_is_claimed_once(sessions: Sessions, make_job: MakeJob) -> None:
    expected = {make_job() for _ in range(20)}

    def drain(index: int) -> list[str]:
        found = []
        while taken := claim(sessions, worker=f"w{index}"):
            found.append(taken.job_id)
        return found

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        taken = Counter(job_id for found in pool.map(drain, range(NUM_THREADS)) for job_id in found)
    assert taken == Counter(expected)


def test_priority_then_age_decides(sessions: Sessions, make_job: MakeJob) -> None:
    old, young, urgent = make_job(), make_job(), make_job(priority=1)
    set_columns(sessions, old, created_at=100.0)
    set_columns(sessions, young, created_at=200.0)
    assert [claimed(sessions).job_id for _ in range(3)] == [urgent, old, young]
    assert claim(sessions) is None


def test_a_claim_starts_the_attempt(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job(reason=Reason.PAUSED_BY_USER)
    assert claimed(sessions, lease_seconds=30) == Claim(job_id, 1)
    job = row(sessions, job_id)
    assert (job.phase, job.reason, job.lease_owner) == (Phase.LOADING, None, "w")
    assert job.started_at is not None
    assert 25 < job.lease_expires_at - job.started_at <= 30.5  # type: ignore[operator]
    assert messages(sessions, job_id)[-1] == "Fine-tuning job started"


def test_not_claimable_before_its_time(sessions: Sessions, make_job: MakeJob) -> None:
    set_columns(sessions, make_job(), claimable_at=now() + 60)
    assert claim(sessions) is None


def test_validating_jobs_are_not_claimed(sessions: Sessions, make_job: MakeJob) -> None:
    make_job(is_queued=False)
    assert claim(sessions) is None


def test_renew_extends_and_hears_requests(
    sessions: Sessions, make_job: MakeJob, project_id: str
) -> None:
    job_id = make_job()
    held = claimed(sessions, lease_seconds=1)

    def renew() -> attempts.Requests:
        with transaction(sessions) as session:
            return attempts.renew(session, held, lease_seconds=60, phase=Phase.TRAINING)

    assert renew() == attempts.Requests(is_cancel=False, is_pause=False)
    assert row(sessions, job_id).phase == Phase.TRAINING
    time.sleep(1.05)
    with sessions() as session:
        assert attempts.expired(session) == []
    with transaction(sessions) as session:
        jobs.pause(session, project_id, job_id)
    assert renew() == attempts.Requests(is_cancel=False, is_pause=True)
    with transaction(sessions) as session:
        jobs.cancel(session, project_id, job_id)
    assert renew() == attempts.Requests(is_cancel=True, is_pause=True)


def test_a_zombie_changes_nothing(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    zombie = claimed(sessions)
    lose(sessions, zombie)
    set_columns(sessions, job_id, claimable_at=0.0)
    current = claimed(sessions)

    def write_metrics(session: Session) -> None:
        attempts.fence(session, zombie, step=99)
        metrics.put(session, job_id, step=99, attempt=zombie.attempt, data={})

    late_writes = (
        write_metrics,
        lambda session: attempts.renew(session, zombie, lease_seconds=60),
        lambda session: attempts.conclude(session, zombie, Status.SUCCEEDED),
        lambda session: attempts.fail(session, zombie, LOST),
        lambda session: losses.lose(session, zombie, LOST, max_losses=3),
        lambda session: attempts.stopped(session, zombie),
    )
    before = row(sessions, job_id)
    for write in late_writes:
        with pytest.raises(LeaseLost), transaction(sessions) as session:
            write(session)
    after = row(sessions, job_id)
    assert (after.status, after.attempt, after.step) == (Status.RUNNING, current.attempt, 0)
    assert after.event_seq == before.event_seq
    with sessions() as session:
        assert metrics.list_after(session, job_id, after_step=-1, limit=10).rows == []


def test_the_holder_writes_through_its_fence(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    held = claimed(sessions)
    with transaction(sessions) as session:
        attempts.fence(session, held)
        attempts.fence(session, held, step=3, trained_tokens=2**40)
    job = row(sessions, job_id)
    assert (job.step, job.trained_tokens) == (3, 2**40)


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_terminal_states_never_change(
    sessions: Sessions, make_job: MakeJob, status: Status
) -> None:
    job_id = make_job()
    held = claimed(sessions)
    with transaction(sessions) as session:
        attempts.conclude(session, held, status)
    for target in Status:
        with transaction(sessions) as session:
            assert not jobs.move(session, job_id, target)
    assert row(sessions, job_id).finished_at is not None
    with pytest.raises(LeaseLost), transaction(sessions) as session:
        attempts.conclude(session, held, Status.SUCCEEDED)


def test_fail_shows_reason_and_sentence(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    failure = JobFailure(Reason.OUT_OF_MEMORY, "Too large.", param="batch_size")
    with transaction(sessions) as session:
        attempts.fail(session, Claim(job_id, claimed(sessions).attempt), failure)
    job = row(sessions, job_id)
    assert (job.status, job.reason, job.error_message, job.error_param) == (
        Status.FAILED,
        Reason.OUT_OF_MEMORY,
        "Too large.",
        "batch_size",
    )
    with sessions() as session:
        last = session.get_one(Event, (job_id, job.event_seq))
    assert (last.level, last.message) == ("error", "Too large.")


def test_a_ring_is_due_for_each_waiting_job_once_per_interval(
    sessions: Sessions, make_job: MakeJob
) -> None:
    def num_due(every_seconds: float = 60) -> int:
        with transaction(sessions) as session:
            return attempts.ring_due(session, every_seconds=every_seconds)

    assert num_due() == 0
    queued = make_job()
    assert num_due() == 1
    assert num_due() == 0
    assert num_due(every_seconds=-1) == 1
    claimed(sessions)
    assert num_due(every_seconds=-1) == 0
    make_job(is_queued=False)
    make_job()
    assert num_due() == 2
    set_columns(sessions, queued, status=Status.QUEUED, claimable_at=now() + 60, rung_at=None)
    assert num_due() == 0


def test_the_clock_is_the_databases_and_unix_time(sessions: Sessions) -> None:
    with sessions() as session:
        database = session.scalar(select(now()))
    assert database is not None
    assert abs(database - time.time()) < 1
