"""What judges cost a job: counted, limited, and kept for the next attempt."""

import threading

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.graders.grade import Usage
from jobs.graders.ports import Spent as NoMore
from jobs.limits import Limits
from jobs.models import Job
from jobs.store import projects
from worker.grpo.errors import Interrupted
from worker.judging import KeptAnswers, LimitReached, Spending


@pytest.fixture
def job_ids(sessions: sessionmaker[Session]) -> list[str]:
    with transaction(sessions) as session:
        project = projects.ensure_project(session, "default").id
        for number in (1, 2):
            job = Job(id=f"ftjob-{number}", project_id=project, spec={}, model="m", seed=1,
                      training_file="file-1")  # fmt: skip
            session.add(job)
    return ["ftjob-1", "ftjob-2"]


def test_answers_are_kept_for_the_job_and_every_attempt_of_it(
    sessions: sessionmaker[Session], job_ids: list[str]
) -> None:
    answer = {"text": "yes", "model": "m", "is_refusal": False, "is_cut": False}
    KeptAnswers(sessions, job_ids[0]).put("key", answer)
    again = KeptAnswers(sessions, job_ids[0])
    assert again.get("key") == answer
    again.put("key", {"text": "no"})
    assert again.get("key") == answer
    assert again.get("other") is None
    assert KeptAnswers(sessions, job_ids[1]).get("key") is None


def test_no_request_is_made_beyond_the_limit_whoever_asks() -> None:
    spending = Spending(Limits(max_judge_requests=10), {"judge_requests": 3})
    refused = []

    def ask() -> None:
        for _ in range(5):
            try:
                spending.request()
            except NoMore as error:
                refused.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spending.so_far().judge_requests == 10
    assert len(refused) == 20 - 7
    assert "limit of 10 judge requests" in refused[0]


@pytest.mark.parametrize(
    ("limits", "before", "name"),
    [
        (Limits(max_seconds=5), {"seconds": 5.0}, "max_seconds = 5"),
        (Limits(max_judge_requests=2), {"judge_requests": 2}, "max_judge_requests = 2"),
        (Limits(max_judge_tokens=30), {"judge_tokens": 20}, "max_judge_tokens = 30"),
    ],
)
def test_a_reached_limit_interrupts_with_its_name(
    limits: Limits, before: dict[str, float], name: str
) -> None:
    spending = Spending(limits, before)
    spending.begin()
    spending.took(Usage(1, 7, 3, 0))
    with pytest.raises(LimitReached, match=name) as reached:
        spending.check()
    assert isinstance(reached.value, Interrupted)


def test_a_judges_limit_waits_for_what_is_under_way_and_a_time_limit_does_not() -> None:
    spending = Spending(Limits(max_judge_requests=2), {})
    for _ in range(2):
        spending.begin()
        spending.request()
    spending.took(Usage(1, 7, 3, 0))
    spending.check()
    spending.took(Usage())
    with pytest.raises(LimitReached):
        spending.check()
    late = Spending(Limits(max_seconds=1), {"seconds": 2.0})
    late.begin()
    with pytest.raises(LimitReached):
        late.check()


def test_below_its_limits_and_without_any_a_job_goes_on() -> None:
    for limits in (None, Limits(max_seconds=1000, max_judge_requests=2, max_judge_tokens=100)):
        spending = Spending(limits, {})
        spending.begin()
        spending.request()
        spending.took(Usage(1, 7, 3, 5))
        spending.check()
        assert spending.so_far().judge_tokens == 10
