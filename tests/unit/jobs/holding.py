"""Claims and rows as the tests of attempts handle them."""

from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.errors import JobFailure
from jobs.models import Job
from jobs.status import Reason, Status
from jobs.store import attempts, events, losses
from jobs.store.attempts import Claim

Sessions = sessionmaker[Session]

LOST = JobFailure(Reason.WORKER_LOST, "The worker is gone.")


def claim(sessions: Sessions, worker: str = "w", lease_seconds: float = 60.0) -> Claim | None:
    with transaction(sessions) as session:
        return attempts.claim(session, worker=worker, lease_seconds=lease_seconds)


def claimed(sessions: Sessions, lease_seconds: float = 60.0) -> Claim:
    found = claim(sessions, lease_seconds=lease_seconds)
    assert found is not None
    return found


def row(sessions: Sessions, job_id: str) -> Job:
    with sessions() as session:
        return session.get_one(Job, job_id)


def set_columns(sessions: Sessions, job_id: str, **values: object) -> None:
    with transaction(sessions) as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def lose(sessions: Sessions, held: Claim, max_losses: int = 3) -> Status:
    with transaction(sessions) as session:
        return losses.lose(session, held, LOST, max_losses=max_losses)


def messages(sessions: Sessions, job_id: str) -> list[str]:
    with sessions() as session:
        page = events.list_page(session, job_id, after_seq=None, limit=100, newest_first=False)
        return [event.message for event in page.rows]
