"""A job at a limit of its own: paused with the reason, and granted it once more by a resume."""

from collections.abc import Callable

import pytest
from holding import Sessions, claimed, messages, row, set_columns

from jobs.db import now, transaction
from jobs.errors import LeaseLost
from jobs.limits import Limits, Spent
from jobs.status import Reason, Status
from jobs.store import answers, attempts, jobs

MakeJob = Callable[..., str]

MESSAGE = "The job is paused at its limit max_seconds = 5."


def test_a_job_at_its_limit_is_paused_and_resumed(
    sessions: Sessions, make_job: MakeJob, project_id: str
) -> None:
    job_id = make_job()
    held = claimed(sessions)
    with transaction(sessions) as session:
        attempts.fence(session, held, spent={"seconds": 5.0})
        assert attempts.limited(session, held, MESSAGE) is Status.PAUSED
    job = row(sessions, job_id)
    assert (job.status, job.reason) == (Status.PAUSED, Reason.LIMIT_REACHED)
    assert (job.lease_owner, job.finished_at) == (None, None)
    assert messages(sessions, job_id)[-1] == MESSAGE
    with transaction(sessions) as session:
        jobs.resume(session, project_id, job_id)
    job = row(sessions, job_id)
    assert (job.status, job.reason, job.spent) == (Status.QUEUED, None, {})


def test_a_limit_during_a_pause_is_a_pause_and_during_a_cancel_a_cancel(
    sessions: Sessions, make_job: MakeJob
) -> None:
    first = make_job()
    held = claimed(sessions)
    set_columns(sessions, first, status=Status.PAUSING, pause_requested_at=now())
    with transaction(sessions) as session:
        assert attempts.limited(session, held, MESSAGE) is Status.PAUSED
    second = make_job()
    held = claimed(sessions)
    set_columns(sessions, second, cancel_requested_at=now())
    with transaction(sessions) as session:
        assert attempts.limited(session, held, MESSAGE) is Status.CANCELLED


def test_a_zombie_at_a_limit_pauses_nobody(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    zombie = claimed(sessions)
    set_columns(sessions, job_id, attempt=2)
    with pytest.raises(LeaseLost), transaction(sessions) as session:
        attempts.limited(session, zombie, MESSAGE)
    assert row(sessions, job_id).status == Status.RUNNING


def test_answers_of_judges_go_with_the_end_of_the_job_and_not_with_a_pause(
    sessions: Sessions, make_job: MakeJob, project_id: str
) -> None:
    job_id = make_job()
    held = claimed(sessions)
    with transaction(sessions) as session:
        answers.put(session, job_id, "key", {"text": "1"})
        attempts.limited(session, held, MESSAGE)
    with sessions() as session:
        assert answers.get(session, job_id, "key") == {"text": "1"}
    with transaction(sessions) as session:
        jobs.cancel(session, project_id, job_id)
    with sessions() as session:
        assert answers.get(session, job_id, "key") is None


@pytest.mark.parametrize(
    ("spent", "named"),
    [
        (Spent(seconds=9.9, judge_requests=4, judge_tokens=99), None),
        (Spent(seconds=10.0), "max_seconds = 10"),
        (Spent(judge_requests=5), "max_judge_requests = 5"),
        (Spent(judge_tokens=101), "max_judge_tokens = 100"),
    ],
)
def test_which_limit_is_reached(spent: Spent, named: str | None) -> None:
    limits = Limits(max_seconds=10, max_judge_requests=5, max_judge_tokens=100)
    reached = spent.reached(limits)
    assert (reached and reached.sentence.split("limit ")[1].split(". ")[0]) == named
