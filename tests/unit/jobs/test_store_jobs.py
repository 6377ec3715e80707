"""A job's row as its owner sees it, and the transition table behind every change of it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.errors import JobFailure, JobNotFound, WrongState
from jobs.models import Job
from jobs.status import TERMINAL, TRANSITIONS, Reason, Status, sources
from jobs.store import events, jobs, projects, validation

pytestmark = pytest.mark.on_both_databases

Sessions = sessionmaker[Session]
MakeJob = Callable[..., str]
Request = Callable[[Session, str, str], Job]


def put(sessions: Sessions, job_id: str, **values: object) -> None:
    with transaction(sessions) as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def row(sessions: Sessions, job_id: str) -> Job:
    with sessions() as session:
        return session.get_one(Job, job_id)


def ask(sessions: Sessions, request: Request, project_id: str, job_id: str) -> Job:
    with transaction(sessions) as session:
        return request(session, project_id, job_id)


def test_the_table_knows_every_state() -> None:
    assert set(TRANSITIONS) | TERMINAL == set(Status)
    assert not set(TRANSITIONS) & TERMINAL
    assert set(sources(Status.CANCELLED)) == set(TRANSITIONS)
    assert sources(Status.VALIDATING_FILES) == ()


@pytest.mark.parametrize("source", Status)
def test_move_follows_the_table(sessions: Sessions, make_job: MakeJob, source: Status) -> None:
    job_id = make_job()
    for target in Status:
        put(sessions, job_id, status=source, reason=None)
        with transaction(sessions) as session:
            moved = jobs.move(session, job_id, target, reason="moved")
        assert moved == (target in TRANSITIONS.get(source, ()))
        job = row(sessions, job_id)
        assert (job.status, job.reason) == ((target, "moved") if moved else (source, None))


CANCELLED_AT_ONCE = (Status.VALIDATING_FILES, Status.QUEUED, Status.PAUSED)


@pytest.mark.parametrize("status", Status)
def test_cancel(sessions: Sessions, make_job: MakeJob, project_id: str, status: Status) -> None:
    job_id = make_job()
    put(sessions, job_id, status=status)
    if status in TERMINAL:
        with pytest.raises(WrongState, match=f"already {status}"):
            ask(sessions, jobs.cancel, project_id, job_id)
        return
    job = ask(sessions, jobs.cancel, project_id, job_id)
    assert job.cancel_requested_at is not None
    if status in CANCELLED_AT_ONCE:
        assert (job.status, job.reason) == (Status.CANCELLED, Reason.CANCELLED_BY_USER)
        assert job.finished_at is not None
    else:
        assert job.status == status
        asked_at = job.cancel_requested_at
        again = ask(sessions, jobs.cancel, project_id, job_id)
        assert again.cancel_requested_at == asked_at


@pytest.mark.parametrize("status", Status)
def test_pause(sessions: Sessions, make_job: MakeJob, project_id: str, status: Status) -> None:
    job_id = make_job()
    put(sessions, job_id, status=status)
    if status not in (Status.RUNNING, Status.PAUSING, Status.PAUSED):
        with pytest.raises(WrongState, match="only a running job can be paused"):
            ask(sessions, jobs.pause, project_id, job_id)
        return
    job = ask(sessions, jobs.pause, project_id, job_id)
    assert job.status == (Status.PAUSED if status == Status.PAUSED else Status.PAUSING)


@pytest.mark.parametrize("status", Status)
def test_resume(sessions: Sessions, make_job: MakeJob, project_id: str, status: Status) -> None:
    job_id = make_job()
    put(sessions, job_id, status=status, pause_requested_at=1.0, rung_at=1.0)
    if status != Status.PAUSED:
        with pytest.raises(WrongState, match="only a paused job can be resumed"):
            ask(sessions, jobs.resume, project_id, job_id)
        return
    job = ask(sessions, jobs.resume, project_id, job_id)
    assert job.status == Status.QUEUED
    assert (job.pause_requested_at, job.rung_at, job.reason) == (None, None, None)


def test_a_refused_request_leaves_no_event(
    sessions: Sessions, make_job: MakeJob, project_id: str
) -> None:
    job_id = make_job()
    before = row(sessions, job_id).event_seq
    for request in (jobs.pause, jobs.resume):
        with pytest.raises(WrongState):
            ask(sessions, request, project_id, job_id)
    assert row(sessions, job_id).event_seq == before


def test_another_projects_job_is_not_there(sessions: Sessions, make_job: MakeJob) -> None:
    job_id = make_job()
    with transaction(sessions) as session:
        other = projects.ensure_project(session, "other").id
    for request in (jobs.get, jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(JobNotFound, match=f"Could not find fine tune: {job_id}"):
            ask(sessions, request, other, job_id)
    with sessions() as session:
        assert jobs.list_page(session, other, after=None, limit=10).rows == []


def test_pages_walk_every_job_once_also_within_one_second(
    sessions: Sessions, make_job: MakeJob, project_id: str
) -> None:
    made = {make_job() for _ in range(7)}
    for job_id in made:
        put(sessions, job_id, created_at=1000.0)
    newest = make_job()
    seen: list[str] = []
    after = None
    while True:
        with sessions() as session:
            page = jobs.list_page(session, project_id, after=after, limit=3)
        seen += [job.id for job in page.rows]
        after = seen[-1]
        if not page.has_more:
            break
    assert seen[0] == newest
    assert sorted(seen[1:]) == sorted(made)
    with sessions() as session, pytest.raises(JobNotFound):
        jobs.list_page(session, project_id, after="ftjob-none", limit=3)


class TestValidation:
    def claim(self, sessions: Sessions, lease_seconds: float = 60) -> str | None:
        with transaction(sessions) as session:
            waiting = validation.claim(session, worker="v", lease_seconds=lease_seconds)
        return waiting and waiting.job_id

    def test_one_validator_at_a_time(self, sessions: Sessions, make_job: MakeJob) -> None:
        first, second = make_job(is_queued=False), make_job(is_queued=False)
        assert [self.claim(sessions) for _ in range(3)] == [first, second, None]

    def test_a_dead_validators_job_is_taken_again(
        self, sessions: Sessions, make_job: MakeJob
    ) -> None:
        job_id = make_job(is_queued=False)
        assert self.claim(sessions, lease_seconds=-1) == job_id
        with transaction(sessions) as session:
            again = validation.claim(session, worker="w", lease_seconds=60)
        assert again == validation.Waiting(job_id, num_tries=2)

    def test_a_lease_is_renewed_by_its_holder_alone(
        self, sessions: Sessions, make_job: MakeJob, project_id: str
    ) -> None:
        job_id = make_job(is_queued=False)
        self.claim(sessions)

        def renew(worker: str) -> bool:
            with transaction(sessions) as session:
                return validation.renew(session, job_id, worker=worker, lease_seconds=60)

        assert (renew("v"), renew("other")) == (True, False)
        with transaction(sessions) as session:
            jobs.cancel(session, project_id, job_id)
        assert not renew("v")

    def test_who_leaves_counts_for_nothing_and_keeps_no_lease(
        self, sessions: Sessions, make_job: MakeJob
    ) -> None:
        job_id = make_job(is_queued=False)
        for _ in range(5):
            assert self.claim(sessions) == job_id
            with transaction(sessions) as session:
                validation.leave(session, job_id, worker="v")
        job = row(sessions, job_id)
        assert (job.num_losses, job.lease_owner) == (0, None)

    def test_who_leaves_late_takes_nothing_from_the_next(
        self, sessions: Sessions, make_job: MakeJob
    ) -> None:
        job_id = make_job(is_queued=False)
        self.claim(sessions, lease_seconds=-1)
        with transaction(sessions) as session:
            assert validation.claim(session, worker="w", lease_seconds=60) is not None
        with transaction(sessions) as session:
            validation.leave(session, job_id, worker="v")
        job = row(sessions, job_id)
        assert (job.num_losses, job.lease_owner) == (1, "w")
        with transaction(sessions) as session:
            assert validation.renew(session, job_id, worker="w", lease_seconds=60)

    def test_admit_queues_once(self, sessions: Sessions, make_job: MakeJob) -> None:
        job_id = make_job(is_queued=False)
        self.claim(sessions)
        for expected in (True, False):
            with transaction(sessions) as session:
                admitted = validation.admit(session, job_id, resolved={"a": 1}, total_steps=9)
            assert admitted == expected
        job = row(sessions, job_id)
        assert (job.status, job.resolved, job.total_steps) == (Status.QUEUED, {"a": 1}, 9)
        assert (job.num_losses, job.lease_owner) == (0, None)
        assert job.validated_at is not None

    def test_refuse_fails_the_job_with_its_lines(
        self, sessions: Sessions, make_job: MakeJob
    ) -> None:
        job_id = make_job(is_queued=False)
        failure = JobFailure(
            Reason.INVALID_TRAINING_FILE, "line 3: no 'messages'", param="training_file"
        )
        with transaction(sessions) as session:
            assert validation.refuse(session, job_id, failure)
        job = row(sessions, job_id)
        assert (job.status, job.reason) == (Status.FAILED, Reason.INVALID_TRAINING_FILE)
        assert (job.error_message, job.error_param) == (failure.message, "training_file")

    def test_a_cancel_meanwhile_leaves_no_lease(
        self, sessions: Sessions, make_job: MakeJob, project_id: str
    ) -> None:
        job_id = make_job(is_queued=False)
        with transaction(sessions) as session:
            assert validation.claim(session, worker="w", lease_seconds=60) is not None
        with transaction(sessions) as session:
            cancelled = jobs.cancel(session, project_id, job_id)
            assert (cancelled.lease_owner, cancelled.lease_expires_at) == (None, None)
        with transaction(sessions) as session:
            assert not validation.renew(session, job_id, worker="w", lease_seconds=60)

    def test_a_cancelled_job_is_neither_admitted_nor_refused(
        self, sessions: Sessions, make_job: MakeJob, project_id: str
    ) -> None:
        job_id = make_job(is_queued=False)
        ask(sessions, jobs.cancel, project_id, job_id)
        with transaction(sessions) as session:
            assert not validation.admit(session, job_id)
            assert not validation.refuse(session, job_id, JobFailure(Reason.INTERNAL_ERROR, "x"))
        with sessions() as session:
            page = events.list_page(session, job_id, after_seq=None, limit=9)
        assert page.rows[0].message == "Fine-tuning job cancelled"


def test_two_that_make_a_project_at_once_get_the_same_one(sessions: Sessions) -> None:
    def ensure(_: int) -> str:
        with transaction(sessions) as session:
            return projects.ensure_project(session, "new").id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ensure, range(16)))) == 1
