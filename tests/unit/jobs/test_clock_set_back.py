"""A clock that is set back makes nobody wait for the old one's times."""

from collections.abc import Callable

import pytest
from holding import Sessions, claim, claimed, set_columns

from jobs.db import now, transaction
from jobs.store import attempts, validation

pytestmark = pytest.mark.on_both_databases

MakeJob = Callable[..., str]
HOURS = 7200.0


def test_a_waiting_job_is_claimed(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    set_columns(sessions, job_id, claimable_at=now() + 20)
    assert claim(sessions) is None, "an attempt that was lost backs off"

    set_columns(sessions, job_id, claimable_at=now() + HOURS)

    assert claimed(sessions).job_id == job_id


def test_a_lost_workers_lease_has_run_out(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    held = claimed(sessions)
    with sessions() as session:
        assert attempts.expired(session) == []

    set_columns(sessions, job_id, lease_expires_at=now() + HOURS)

    with transaction(sessions) as session:
        assert attempts.expired(session) == [held]
        attempts.seize(session, held)


def test_a_lost_validators_job_is_taken(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job(is_queued=False)

    def take() -> str | None:
        with transaction(sessions) as session:
            taken = validation.claim(session, worker="w", lease_seconds=60)
            return taken.job_id if taken else None

    assert take() == job_id
    assert take() is None

    set_columns(sessions, job_id, lease_expires_at=now() + HOURS)

    assert take() == job_id


def test_an_unheard_ring_is_repeated(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    set_columns(sessions, job_id, rung_at=now() + HOURS)

    with transaction(sessions) as session:
        assert attempts.ring_due(session, every_seconds=5) == 1
    with transaction(sessions) as session:
        assert attempts.ring_due(session, every_seconds=5) == 0
