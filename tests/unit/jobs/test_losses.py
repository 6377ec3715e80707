"""Attempts that are lost: the job is queued again, unless its owner or its record says no."""

import time
from collections.abc import Callable

import pytest
from holding import Sessions, claim, claimed, lose, messages, row, set_columns
from sqlalchemy import select

from jobs.db import now, transaction
from jobs.errors import JobFailure, LeaseLost
from jobs.status import Reason, Status
from jobs.store import attempts, jobs, losses
from jobs.store.attempts import Claim

pytestmark = pytest.mark.on_both_databases

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


def test_each_loss_in_a_row_waits_longer_up_to_a_bound(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id, waits = make_job(), []
    for _ in range(6):
        set_columns(sessions, job_id, claimable_at=0.0)
        held = claimed(sessions)
        with sessions() as session:
            before = session.scalar(select(now()))
        assert lose(sessions, held, max_losses=9) == Status.QUEUED
        waits.append(row(sessions, job_id).claimable_at - before)
    said = [one for one in messages(sessions, job_id) if "is queued again" in one]
    # The clock has gone on a little between the look and the loss.
    for wait, delay, sentence in zip(waits, (1, 5, 25, 125, 300, 300), said, strict=True):
        assert delay - 0.01 <= wait < delay + 30
        assert f"waits {delay} s and goes on from its last saved state" in sentence


def test_a_job_that_waits_after_a_loss_says_why_and_until_when(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job()
    assert losses.sentence(row(sessions, job_id)) is None
    lose(sessions, claimed(sessions))
    set_columns(sessions, job_id, claimable_at=86400.0)
    assert losses.sentence(row(sessions, job_id)) == (
        "The worker is gone. The job is tried again from 1970-01-02 00:00:00 UTC on."
    )
    held = claim_now(sessions, job_id)
    with transaction(sessions) as session:
        attempts.stopped(session, held)
    assert losses.sentence(row(sessions, job_id)) is None


def test_the_queue_behind_a_job_that_backs_off_moves_on(
    sessions: Sessions, make_job: MakeJob
) -> None:
    poison, behind = make_job(), make_job()
    held = claimed(sessions)
    assert held.job_id == poison
    lose(sessions, held)
    assert claimed(sessions).job_id == behind


def test_losses_of_several_kinds_are_no_poison_at_once_and_end_all_the_same(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id, statuses = make_job(), []
    for number in range(6):
        held = claim_now(sessions, job_id)
        loss = JobFailure(
            Reason.TRAINER_CRASHED, f"Death {number}.", data={"ended": f"code {number}"}
        )
        with transaction(sessions) as session:
            statuses.append(losses.lose(session, held, loss, max_losses=2))
    assert statuses == [Status.QUEUED] * 5 + [Status.FAILED]
    job = row(sessions, job_id)
    assert job.error_message is not None
    assert "Death 5." in job.error_message
    assert "6 attempts in a row ended with no training state saved" in job.error_message


def test_what_is_waited_for_is_no_loss(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    want = JobFailure(Reason.DISK_FULL, "The disk is full.")
    for _ in range(12):
        held = claim_now(sessions, job_id)
        with transaction(sessions) as session:
            assert losses.wait(session, held, want) == Status.QUEUED
    job = row(sessions, job_id)
    assert (job.num_losses, job.reason) == (0, Reason.DISK_FULL)
    assert (losses.sentence(job) or "").startswith("The disk is full. The job is tried again from ")
    claim_now(sessions, job_id)
    assert row(sessions, job_id).reason is None


def claim_now(sessions: Sessions, job_id: str) -> Claim:
    """Claim the job, whose back-off is skipped."""
    set_columns(sessions, job_id, claimable_at=0.0)
    held = claimed(sessions)
    assert held.job_id == job_id
    return held
