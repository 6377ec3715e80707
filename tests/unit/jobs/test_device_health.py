"""Devices that lose jobs at their start are tested; what a failed test means for those jobs."""

from collections.abc import Callable

import pytest
from holding import LOST, Sessions, messages, row, set_columns
from sqlalchemy import select, update

from jobs.db import now, transaction
from jobs.devices import Device
from jobs.models import DeviceHealth
from jobs.status import Status
from jobs.store import attempts, devices, losses, metrics
from jobs.store.attempts import Claim
from jobs.store.devices import Fitness
from jobs.store.turns import Place

pytestmark = pytest.mark.on_both_databases

MakeJob = Callable[..., str]
HERE, THERE = Place("w", 0), Place("w", 1)
CPU = Device("cpu", 10**9)
PASSED = {"passed": True, "reason": None}
FAILED = {"passed": False, "reason": "In its self-test two and two were five."}


def look(sessions: Sessions, place: Place = HERE) -> Fitness:
    with transaction(sessions) as session:
        return devices.look(session, place, CPU)


def record(sessions: Sessions, evidence: dict[str, object], place: Place = HERE) -> int:
    with transaction(sessions) as session:
        return devices.record(session, place, evidence)


def take(sessions: Sessions, place: Place = HERE) -> Claim:
    with transaction(sessions) as session:
        held = attempts.claim(session, worker="w:1", lease_seconds=60, place=place)
    assert held is not None
    return held


def lose(sessions: Sessions, held: Claim, *, max_losses: int = 9) -> Status:
    with transaction(sessions) as session:
        status = losses.lose(session, held, LOST, max_losses=max_losses)
    set_columns(sessions, held.job_id, claimable_at=0.0)
    return status


def lose_early(sessions: Sessions, make_job: MakeJob, place: Place = HERE) -> str:
    """A new job is lost on the device before its first step, and does not come back."""
    job_id = make_job(priority=1)
    held = take(sessions, place)
    assert held.job_id == job_id
    lose(sessions, held)
    set_columns(sessions, job_id, claimable_at=now() + 60)
    return job_id


def test_two_jobs_that_are_lost_early_make_their_device_suspect(
    sessions: Sessions, make_job: MakeJob
) -> None:
    assert look(sessions) is Fitness.CLAIM
    for place in (HERE, THERE):
        lose_early(sessions, make_job, place)
        assert look(sessions, place) is Fitness.CLAIM
    lose_early(sessions, make_job)
    assert (look(sessions), look(sessions, THERE)) == (Fitness.TEST, Fitness.CLAIM)


def test_a_job_that_is_lost_again_and_again_does_not(sessions: Sessions, make_job: MakeJob) -> None:
    make_job()
    for _ in range(3):
        lose(sessions, take(sessions))
    assert look(sessions) is Fitness.CLAIM


def test_nor_do_losses_after_a_first_step(sessions: Sessions, make_job: MakeJob) -> None:
    for _ in range(2):
        job_id = make_job(priority=1)
        held = take(sessions)
        with transaction(sessions) as session:
            metrics.put(session, job_id, step=1, attempt=held.attempt, data={})
        lose(sessions, held)
        set_columns(sessions, job_id, claimable_at=now() + 60)
    assert look(sessions) is Fitness.CLAIM


def test_a_loss_of_an_attempt_that_redid_no_step_is_an_early_one(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job()
    held = take(sessions, THERE)
    with transaction(sessions) as session:
        metrics.put(session, job_id, step=1, attempt=held.attempt, data={})
    lose(sessions, held)
    lose(sessions, take(sessions))
    lose_early(sessions, make_job)
    assert look(sessions) is Fitness.TEST


def test_a_device_that_passes_goes_on_and_the_losses_count(
    sessions: Sessions, make_job: MakeJob
) -> None:
    lost = [lose_early(sessions, make_job) for _ in range(2)]
    look(sessions)
    assert record(sessions, PASSED) == 0
    assert look(sessions) is Fitness.CLAIM
    assert [row(sessions, one).num_losses for one in lost] == [1, 1]
    lose_early(sessions, make_job)
    assert look(sessions) is Fitness.CLAIM  # what was before the test is explained


def test_a_device_that_fails_gives_the_losses_back_and_says_so_on_the_jobs(
    sessions: Sessions, make_job: MakeJob
) -> None:
    twice = make_job()
    lose(sessions, take(sessions, THERE))
    lose(sessions, take(sessions))
    set_columns(sessions, twice, claimable_at=now() + 60)
    once = lose_early(sessions, make_job)
    look(sessions)
    assert record(sessions, FAILED) == 2
    found = [(row(sessions, one).num_losses, row(sessions, one).lost) for one in (twice, once)]
    assert [(num, lost and lost["num"]) for num, lost in found] == [(1, 1), (0, 0)]
    for job_id in (twice, once):
        assert messages(sessions, job_id)[-1] == (
            "The device of an attempt that was lost before its first step, slot 0 of worker w, is "
            "unhealthy: In its self-test two and two were five. The loss is not counted."
        )
    assert record(sessions, FAILED) == 0  # they are given back once


def test_a_loss_that_is_noted_after_the_failed_test_is_not_counted_either(
    sessions: Sessions, make_job: MakeJob
) -> None:
    first = make_job()
    held = take(sessions)
    look(sessions)
    record(sessions, FAILED)
    assert lose(sessions, held, max_losses=1) is Status.QUEUED
    job = row(sessions, first)
    assert (job.num_losses, job.lost and job.lost["num"]) == (0, 0)
    assert "Its device has failed a self-test, so that is not counted." in (
        losses.sentence(job) or ""
    )


def test_an_unhealthy_device_rests_is_tested_again_and_recovers(
    sessions: Sessions, make_job: MakeJob
) -> None:
    look(sessions)
    waits = []
    for _ in range(4):
        record(sessions, FAILED)
        assert look(sessions) is Fitness.REST
        with transaction(sessions) as session:
            waits.append(session.scalar(select(DeviceHealth.test_at - now())))
            session.execute(update(DeviceHealth).values(test_at=now() - 1))
        assert look(sessions) is Fitness.TEST
    assert waits == pytest.approx([60, 300, 600, 600], abs=50)
    record(sessions, PASSED)
    assert look(sessions) is Fitness.CLAIM
    record(sessions, FAILED)
    with sessions() as session:
        assert session.scalar(select(DeviceHealth.test_at - now())) == pytest.approx(60, abs=50)


def test_a_worker_that_starts_tests_its_unhealthy_devices_first(
    sessions: Sessions, make_job: MakeJob
) -> None:
    for place in (HERE, THERE, Place("other", 0)):
        look(sessions, place)
    record(sessions, FAILED)
    record(sessions, FAILED, Place("other", 0))
    with transaction(sessions) as session:
        devices.test_at_once(session, "w")
    found = [look(sessions, place) for place in (HERE, THERE, Place("other", 0))]
    assert found == [Fitness.TEST, Fitness.CLAIM, Fitness.REST]


def test_devices_that_nobody_offers_are_forgotten_after_a_day(
    sessions: Sessions, make_job: MakeJob
) -> None:
    make_job()
    for place in (HERE, THERE):
        look(sessions, place)
    take(sessions, THERE)  # and for more than a day
    with transaction(sessions) as session:
        session.execute(update(DeviceHealth).values(seen_at=now() - 25 * 3600))
        devices.forget_old(session)
        assert [one.slot for one in devices.listed(session)] == [1]
