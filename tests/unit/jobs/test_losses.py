"""Attempts that are lost: the job is queued again, unless its owner or its record says no."""

import time
from collections.abc import Callable

import pytest
from holding import Sessions, claim, claimed, lose, messages, row, set_columns

from jobs.db import transaction
from jobs.errors import LeaseLost
from jobs.status import Reason, Status
from jobs.store import attempts, jobs
from jobs.store.attempts import Claim

MakeJob = Callable[..., str]


def test_a_lost_attempt_is_requeued_with_backoff_and_the_next_is_number_two(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job()
    held = claimed(sessions, lease_seconds=0.01)
    time.sleep(0.05)
    with sessions() as session:
        assert attempts.expired(session) == [held]
    assert lose(sessions, held) == Status.QUEUED
    job = row(sessions, job_id)
    assert (job.num_losses, job.lease_owner, job.phase, job.rung_at) == (1, None, None, None)
    assert claim(sessions) is None  # it backs off
    set_columns(sessions, job_id, claimable_at=0.0)
    assert claimed(sessions) == Claim(job_id, 2)
    assert messages(sessions, job_id)[-1] == "Fine-tuning job goes on (attempt 2)"


def test_losses_in_a_row_end_the_job_with_evidence(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    for expected in (Status.QUEUED, Status.FAILED):
        set_columns(sessions, job_id, claimable_at=0.0)
        assert lose(sessions, claimed(sessions), max_losses=2) == expected
    job = row(sessions, job_id)
    assert job.reason == Reason.WORKER_LOST
    assert job.error_message is not None
    assert "2 attempts in a row" in job.error_message
    assert job.finished_at is not None
    assert claim(sessions) is None


def test_a_saved_state_forgives_earlier_losses(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    for _ in range(3):
        set_columns(sessions, job_id, claimable_at=0.0)
        held = claimed(sessions)
        with transaction(sessions) as session:
            attempts.fence(session, held, num_losses=0)
        assert lose(sessions, held, max_losses=2) == Status.QUEUED


def test_a_loss_after_a_request_grants_it(
    sessions: Sessions, make_job: MakeJob, project_id: str
) -> None:
    paused, cancelled = make_job(), make_job()
    for job_id, request, expected in (
        (paused, jobs.pause, Status.PAUSED),
        (cancelled, jobs.cancel, Status.CANCELLED),
    ):
        held = claimed(sessions)
        with transaction(sessions) as session:
            request(session, project_id, job_id)
        assert lose(sessions, held) == expected
        assert row(sessions, job_id).lease_expires_at is None
    assert row(sessions, cancelled).finished_at is not None
    assert row(sessions, paused).finished_at is None


def test_stopping_for_a_shutdown_gives_the_job_back_at_once(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job()
    with transaction(sessions) as session:
        attempts.stopped(session, Claim(job_id, claimed(sessions).attempt))
    job = row(sessions, job_id)
    assert (job.status, job.num_losses) == (Status.QUEUED, 0)
    assert claimed(sessions).attempt == 2


def test_stopping_for_a_pause_pauses(
    sessions: Sessions, make_job: MakeJob, project_id: str
) -> None:
    job_id = make_job()
    held = claimed(sessions)
    with transaction(sessions) as session:
        jobs.pause(session, project_id, job_id)
    with transaction(sessions) as session:
        attempts.stopped(session, held)
    assert row(sessions, job_id).status == Status.PAUSED


def test_a_cancel_that_came_after_the_pause_wins(
    sessions: Sessions, make_job: MakeJob, project_id: str
) -> None:
    job_id = make_job()
    held = claimed(sessions)
    for ask in (jobs.pause, jobs.cancel):
        with transaction(sessions) as session:
            ask(session, project_id, job_id)
    with transaction(sessions) as session:
        assert attempts.stopped(session, held) is Status.CANCELLED
    assert row(sessions, job_id).finished_at is not None


def test_a_renewed_lease_cannot_be_seized(sessions: Sessions, make_job: MakeJob) -> None:
    make_job()
    held = claimed(sessions, lease_seconds=0.01)
    time.sleep(0.05)
    with sessions() as session:
        (expired,) = attempts.expired(session)
    with transaction(sessions) as session:
        attempts.renew(session, held, lease_seconds=60)
    with pytest.raises(LeaseLost), transaction(sessions) as session:
        attempts.seize(session, expired)
