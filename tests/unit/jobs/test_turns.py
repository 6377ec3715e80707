"""Whose job is taken next: priority, then the project with the least device time, then age."""

from collections.abc import Callable, Iterator

import pytest
from holding import Sessions, claim, claimed, lose, row, set_columns
from sqlalchemy import func, select, update

from jobs.db import now, transaction
from jobs.models import Turn
from jobs.status import Status
from jobs.store import attempts, jobs, projects, turns
from jobs.store.attempts import Claim

pytestmark = pytest.mark.on_both_databases

MakeJob = Callable[..., str]
HOUR = 3600.0
DAY = 24 * HOUR

# How far numbers of hours may be off: the tests themselves take time.
NEARLY = 600.0


@pytest.fixture
def queued(sessions: Sessions, make_job: MakeJob) -> Callable[..., str]:
    """Makes a job of the project named, younger than those before."""
    ages = iter(range(1, 1000))

    def make(project: str, **values: object) -> str:
        with transaction(sessions) as session:
            project_id = projects.ensure_project(session, project).id
        return make_job(project_id=project_id, created_at=float(next(ages)), **values)

    return make


def has_held(sessions: Sessions, held: Claim, *, begun: float, ended: float | None = None) -> None:
    """Say of an attempt that it began so many seconds ago; and ended, where it did."""
    times = {"started_at": now() - begun} | ({} if ended is None else {"until": now() - ended})
    with transaction(sessions) as session:
        session.execute(
            update(Turn)
            .where(Turn.job_id == held.job_id, Turn.attempt == held.attempt)
            .values(**times)
        )


def ran(sessions: Sessions, *, begun: float, ended: float) -> None:
    """The next job runs and ends, so many seconds ago."""
    held = claimed(sessions)
    with transaction(sessions) as session:
        attempts.conclude(session, held, Status.SUCCEEDED)
    has_held(sessions, held, begun=begun, ended=ended)


def device_hours(sessions: Sessions) -> list[float]:
    with sessions() as session:
        return sorted(seconds / HOUR for seconds in turns.device_seconds(session).values())


def order(sessions: Sessions) -> Iterator[str]:
    """The jobs as they are claimed; each runs on."""
    while held := claim(sessions):
        yield held.job_id


def test_the_project_with_less_device_time_goes_before_an_older_job(
    sessions: Sessions, queued: Callable[..., str]
) -> None:
    queued("busy")
    ran(sessions, begun=3 * HOUR, ended=1 * HOUR)
    queued("idle")
    ran(sessions, begun=2 * HOUR, ended=1 * HOUR)
    old, young = queued("busy"), queued("idle")
    urgent, newcomer = queued("busy", priority=1), queued("newcomer")
    assert [*order(sessions)] == [urgent, newcomer, young, old]


def test_projects_without_device_time_are_served_by_age(
    sessions: Sessions, queued: Callable[..., str]
) -> None:
    first, second = queued("one"), queued("other")
    assert [*order(sessions)] == [first, second]


def test_many_jobs_of_one_project_do_not_make_another_wait(
    sessions: Sessions, queued: Callable[..., str]
) -> None:
    flood = [queued("flood") for _ in range(5)]
    assert claimed(sessions).job_id == flood[0]
    late = queued("late")
    assert [*order(sessions)] == [late, *flood[1:]]


def test_a_running_attempt_counts_as_it_runs(
    sessions: Sessions, queued: Callable[..., str]
) -> None:
    queued("running")
    has_held(sessions, claimed(sessions), begun=2 * HOUR)
    queued("done")
    ran(sessions, begun=2 * HOUR, ended=1 * HOUR)
    assert device_hours(sessions) == pytest.approx([1.0, 2.0], abs=NEARLY / HOUR)
    queued("running")
    mine = queued("done")
    assert claimed(sessions).job_id == mine


def test_only_the_last_day_counts(sessions: Sessions, queued: Callable[..., str]) -> None:
    queued("long ago")
    ran(sessions, begun=3 * DAY, ended=1 * DAY + HOUR)
    assert device_hours(sessions) == []
    queued("across")
    ran(sessions, begun=2 * DAY, ended=22 * HOUR)
    queued("today")
    ran(sessions, begun=5 * HOUR, ended=2 * HOUR)
    assert device_hours(sessions) == pytest.approx([2.0, 3.0], abs=NEARLY / HOUR)
    today, across, long_ago = queued("today"), queued("across"), queued("long ago")
    assert [*order(sessions)] == [long_ago, across, today]


def test_time_is_counted_until_the_attempt_ends_however_it_does(
    sessions: Sessions, queued: Callable[..., str], project_id: str
) -> None:
    def held_for_an_hour() -> Claim:
        held = claimed(sessions)
        has_held(sessions, held, begun=HOUR)
        return held

    lost, stopped, paused = queued("lost"), queued("stopped"), queued("default")
    lose(sessions, held_for_an_hour())
    for asked in ((), (jobs.pause,)):
        held = held_for_an_hour()
        with transaction(sessions) as session:
            for ask in asked:
                ask(session, project_id, held.job_id)
            attempts.stopped(session, held)
        set_columns(sessions, held.job_id, claimable_at=now() + 60)
    assert [row(sessions, one).status for one in (lost, stopped, paused)] == [
        Status.QUEUED,
        Status.QUEUED,
        Status.PAUSED,
    ]
    assert device_hours(sessions) == pytest.approx([1.0] * 3, abs=NEARLY / HOUR)
    with sessions() as session:
        assert session.scalar(select(func.count()).where(Turn.until > now())) == 0


def test_a_renewed_lease_is_time_on_the_device_and_one_that_ran_out_is_none_after_its_end(
    sessions: Sessions, queued: Callable[..., str]
) -> None:
    queued("gone")
    held = claimed(sessions, lease_seconds=600)
    with transaction(sessions) as session:
        attempts.renew(session, held, lease_seconds=500)
        until = session.scalar(select(Turn.until - now()).where(Turn.job_id == held.job_id))
    assert until == pytest.approx(500, abs=60)
    # Its worker is not heard of any more, and for hours nobody looks.
    has_held(sessions, held, begun=10 * HOUR, ended=9 * HOUR)
    assert device_hours(sessions) == pytest.approx([1.0], abs=NEARLY / HOUR)
    lose(sessions, held)
    assert device_hours(sessions) == pytest.approx([1.0], abs=NEARLY / HOUR)


def test_turns_are_forgotten_once_they_count_no_more(
    sessions: Sessions, queued: Callable[..., str]
) -> None:
    for begun, ended in ((3 * DAY, 2 * DAY), (3 * DAY, 2 * HOUR), (3 * HOUR, 2 * HOUR)):
        queued("project")
        ran(sessions, begun=begun, ended=ended)
    before = device_hours(sessions)
    with transaction(sessions) as session:
        turns.forget_old(session)
        assert session.scalar(select(func.count()).select_from(Turn)) == 2
    assert device_hours(sessions) == pytest.approx(before, abs=NEARLY / HOUR)
