"""Any interleaving of clients, workers, zombies and sweepers: what a job's row may never show."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from holding import LOST, Sessions, claim, row, set_columns
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from sqlalchemy.orm import Session
from turn_model import TurnModel

from jobs.db import transaction
from jobs.errors import LeaseLost, WrongState
from jobs.models import Job, Turn
from jobs.status import HELD, TERMINAL, TRANSITIONS, Phase, Status
from jobs.store import attempts, events, jobs, losses, metrics, projects, validation
from jobs.store.attempts import Claim

MAX_JOBS = 5
NUM_PROJECTS = 2
MAX_LOSSES = 3
LONG_AGO = 1.0
ENDS = (
    "Fine-tuning job cancelled",
    "The job has successfully completed",
    "The worker is gone. This was attempt",
)

MakeJob = Callable[..., str]


@dataclass
class Known:
    """What has been seen of a job, to hold what comes next against."""

    status: Status
    project_id: str
    attempt: int = 0
    held: Claim | None = None
    """The only claim whose writes may count."""
    saved_steps: list[int] = field(default_factory=list)


class Lifecycle(RuleBasedStateMachine):
    """One database, a few jobs, and hands that know nothing of one another."""

    job_ids = Bundle("job_ids")
    claims = Bundle("claims")

    def __init__(self, sessions: Sessions, make_job: MakeJob) -> None:
        super().__init__()
        self.sessions = sessions
        self.make_job = make_job
        self.known: dict[str, Known] = {}
        self.turns = TurnModel(sessions)
        with transaction(sessions) as session:
            names = [uuid.uuid4().hex for _ in range(NUM_PROJECTS)]
            self.project_ids = [projects.ensure_project(session, name).id for name in names]

    @initialize(target=job_ids)
    def begin(self) -> MultipleResults[str]:
        """Every project has something to claim: most that can happen begins with that."""
        return multiple(*(self.post(True, number, 0) for number in range(NUM_PROJECTS)))

    @precondition(lambda self: len(self.known) < MAX_JOBS)
    @rule(
        target=job_ids,
        is_queued=st.sampled_from([True, True, False]),
        project=st.integers(0, NUM_PROJECTS - 1),
        priority=st.sampled_from([0, 0, 0, 0, 1]),
    )
    def post(self, is_queued: bool, project: int, priority: int) -> str:
        project_id = self.project_ids[project]
        job_id = self.make_job(is_queued=is_queued, project_id=project_id, priority=priority)
        status = Status.QUEUED if is_queued else Status.VALIDATING_FILES
        self.known[job_id] = Known(status, project_id)
        return job_id

    @precondition(lambda self: self.known)
    @rule(hours=st.integers(1, 12))
    def hours_pass(self, hours: int) -> None:
        self.turns.pass_hours(hours)

    @rule(job_id=job_ids)
    def validate(self, job_id: str) -> None:
        with transaction(self.sessions) as session:
            is_admitted = validation.admit(session, job_id, resolved={})
        assert is_admitted == (self.known[job_id].status is Status.VALIDATING_FILES)

    @rule(target=claims)
    def claim_next(self) -> Claim | None:
        waiting = [i for i, known in self.known.items() if known.status is Status.QUEUED]
        for job_id in waiting:
            set_columns(self.sessions, job_id, claimable_at=LONG_AGO)  # its backoff is over
        rows = [row(self.sessions, job_id) for job_id in waiting]
        held = claim(self.sessions)
        assert (held is not None) == bool(waiting)
        if held is not None:
            assert held.job_id in self.turns.nexts(rows)
            known = self.known[held.job_id]
            assert held.attempt == known.attempt + 1
            known.held = held
            self.turns.begin(held, known.project_id)
        return held

    @rule(job_id=job_ids, wish=st.sampled_from([jobs.cancel, jobs.pause, jobs.resume]))
    def ask(self, job_id: str, wish: Callable[[Session, str, str], Job]) -> None:
        before = row(self.sessions, job_id)
        try:
            with transaction(self.sessions) as session:
                wish(session, self.known[job_id].project_id, job_id)
        except WrongState:
            assert row(self.sessions, job_id).event_seq == before.event_seq

    @rule(held=claims)
    def renew(self, held: Claim | None) -> None:
        self._write(held, lambda session, held: attempts.renew(session, held, lease_seconds=60))

    @rule(held=claims)
    def finish_step(self, held: Claim | None) -> None:
        def write(session: Session, held: Claim) -> None:
            attempts.fence(session, held, phase=Phase.TRAINING, num_losses=0)
            step = len(self.known[held.job_id].saved_steps)
            metrics.put(session, held.job_id, step=step, attempt=held.attempt, data={})
            events.add(session, held.job_id, f"Step {step}")

        if self._write(held, write) and held is not None:
            steps = self.known[held.job_id].saved_steps
            steps.append(len(steps))

    @rule(held=claims)
    def stop(self, held: Claim | None) -> None:
        self._write(held, attempts.stopped)

    @rule(held=claims)
    def succeed(self, held: Claim | None) -> None:
        def conclude(session: Session, held: Claim) -> None:
            attempts.conclude(session, held, Status.SUCCEEDED)
            events.add(session, held.job_id, "The job has successfully completed")

        self._write(held, conclude)

    @rule(job_id=job_ids)
    def lease_runs_out(self, job_id: str) -> None:
        set_columns(self.sessions, job_id, lease_expires_at=LONG_AGO)

    @rule()
    def sweep(self) -> None:
        with self.sessions() as session:
            expired = attempts.expired(session)
        for held in expired:
            assert held == self.known[held.job_id].held
            with transaction(self.sessions) as session:
                attempts.seize(session, held)
                losses.lose(session, held, LOST, max_losses=MAX_LOSSES)

    @rule(held=claims)
    def sweep_late(self, held: Claim | None) -> None:
        """What another sweeper read before somebody was faster."""
        if held is None:
            return
        before = row(self.sessions, held.job_id)
        try:
            with transaction(self.sessions) as session:
                attempts.seize(session, held)
                losses.lose(session, held, LOST, max_losses=MAX_LOSSES)
        except LeaseLost:
            return
        assert held == self.known[held.job_id].held
        assert before.lease_expires_at == LONG_AGO

    @invariant()
    def every_row_is_one_that_may_follow(self) -> None:
        with self.sessions() as session:
            rows = session.scalars(select(Job).where(Job.id.in_(self.known))).all()
        for job in rows:
            known, status = self.known[job.id], Status(job.status)
            assert status is known.status or _leads_to(known.status, status)
            if known.status in TERMINAL:
                assert status is known.status
            assert (job.lease_owner is not None) <= (status in HELD)
            assert (job.finished_at is not None) == (status in TERMINAL)
            assert job.attempt == (known.held.attempt if known.held else known.attempt)
            known.status, known.attempt = status, job.attempt
            if status not in HELD and known.held is not None:
                self.turns.end(known.held)
                known.held = None
        self.turns.check(self.project_ids)
        self.turns.check_ended({job_id for job_id, one in self.known.items() if not one.held})

    def teardown(self) -> None:
        """Nothing written was lost or doubled; then the jobs get out of the next run's way."""
        try:
            for job_id, known in self.known.items():
                self._check_whole(job_id, known)
        finally:
            for job_id in self.known:
                set_columns(self.sessions, job_id, status=Status.CANCELLED, lease_owner=None)

    def _check_whole(self, job_id: str, known: Known) -> None:
        with self.sessions() as session:
            rows = metrics.list_after(session, job_id, after_step=-1, limit=1000).rows
            page = events.list_page(session, job_id, after_seq=None, limit=1000, newest_first=False)
            turns = session.scalars(select(Turn.attempt).where(Turn.job_id == job_id)).all()
        assert [metric.step for metric in rows] == known.saved_steps
        assert [event.seq for event in page.rows] == list(range(1, len(page.rows) + 1))
        num_ends = sum(event.message.startswith(ENDS) for event in page.rows)
        assert num_ends == (known.status in TERMINAL)
        assert sorted(turns) == list(range(1, known.attempt + 1))

    def _write(self, held: Claim | None, write: Callable[[Session, Claim], object]) -> bool:
        """Write as an attempt: it must count exactly when that attempt holds its job."""
        if held is None:
            return False
        before = row(self.sessions, held.job_id)
        try:
            with transaction(self.sessions) as session:
                write(session, held)
        except LeaseLost:
            assert held != self.known[held.job_id].held
            after = row(self.sessions, held.job_id)
            assert (after.status, after.attempt, after.event_seq, after.lease_expires_at) == (
                before.status,
                before.attempt,
                before.event_seq,
                before.lease_expires_at,
            )
            return False
        assert held == self.known[held.job_id].held
        return True


def _leads_to(source: Status, target: Status) -> bool:
    """Whether one rule may have gone from one to the other: at most two rows of the table."""
    nexts = TRANSITIONS.get(source, frozenset())
    return target in nexts or any(target in TRANSITIONS.get(state, ()) for state in nexts)


def explore(sessions: Sessions, make_job: MakeJob, *, num_runs: int, num_steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Lifecycle(sessions, make_job),
        settings=settings(
            max_examples=num_runs,
            stateful_step_count=num_steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.on_both_databases
def test_no_interleaving_breaks_a_job(sessions: Sessions, make_job: MakeJob) -> None:
    explore(sessions, make_job, num_runs=25, num_steps=30)


@pytest.mark.slow
@pytest.mark.on_both_databases
def test_no_interleaving_of_many_breaks_a_job(sessions: Sessions, make_job: MakeJob) -> None:
    explore(sessions, make_job, num_runs=100, num_steps=50)
