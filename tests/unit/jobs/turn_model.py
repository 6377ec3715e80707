"""Turns on devices as they should be counted: in whole hours, which no slow test adds up to."""

from dataclasses import dataclass, field

from holding import Sessions
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from jobs.db import now, transaction
from jobs.models import Job, Turn
from jobs.store import turns
from jobs.store.attempts import Claim

HOUR = 3600.0
DAY_HOURS = 24

# What the run of a test may add to its hours.
NOISE_HOURS = 0.5


@dataclass
class Held:
    """One attempt's turn: how many hours ago it began and ended."""

    project_id: str
    begun: int
    ended: int | None = None

    def hours(self) -> int:
        """Its part of the last day."""
        return max(0, min(self.begun, DAY_HOURS) - (self.ended or 0))


@dataclass
class TurnModel:
    """What every project has held, beside the table that says so."""

    sessions: Sessions
    held: dict[Claim, Held] = field(default_factory=dict)

    def begin(self, claimed: Claim, project_id: str) -> None:
        """An attempt was claimed; an hour passes for it alone, so that no turn is without time."""
        self.held[claimed] = Held(project_id, begun=1)
        with transaction(self.sessions) as session:
            self._shift(session, claimed, 1)

    def end(self, claimed: Claim) -> None:
        self.held[claimed].ended = 0

    def pass_hours(self, hours: int) -> None:
        for held in self.held.values():
            held.begun += hours
            if held.ended is not None:
                held.ended += hours
        with transaction(self.sessions) as session:
            for claimed in self.held:
                self._shift(session, claimed, hours)

    def used(self, project_id: str) -> int:
        return sum(one.hours() for one in self.held.values() if one.project_id == project_id)

    def nexts(self, waiting: list[Job]) -> set[str]:
        """The jobs that may be taken now: one, or one of each project that held as much."""
        top = max(job.priority for job in waiting)
        heads: dict[str, Job] = {}
        for job in sorted(waiting, key=lambda job: (job.created_at, job.id)):
            if job.priority == top:
                heads.setdefault(job.project_id, job)
        least = min(self.used(project_id) for project_id in heads)
        tied = [job for project_id, job in heads.items() if self.used(project_id) == least]
        if least == 0:  # not a moment: their jobs' ages decide
            tied = tied[:1]
        return {job.id for job in tied}

    def check(self, project_ids: list[str]) -> None:
        """The table says the same."""
        with self.sessions() as session:
            found = turns.device_seconds(session)
        for project_id in project_ids:
            hours = found.get(project_id, 0.0) / HOUR
            assert abs(hours - self.used(project_id)) < NOISE_HOURS

    def check_ended(self, job_ids: set[str]) -> None:
        """Nothing of these jobs holds a device still."""
        query = select(Turn.job_id).where(Turn.job_id.in_(job_ids), Turn.until > now())
        with self.sessions() as session:
            assert session.scalars(query).all() == []

    def _shift(self, session: Session, claimed: Claim, hours: int) -> None:
        values = {"started_at": Turn.started_at - hours * HOUR}
        values["until"] = Turn.until - hours * HOUR
        if self.held[claimed].ended is None:
            values["until"] = now() + 60.0  # it renews
        session.execute(
            update(Turn)
            .where(Turn.job_id == claimed.job_id, Turn.attempt == claimed.attempt)
            .values(**values)
        )
