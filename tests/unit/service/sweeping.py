"""What the sweeper's tests look at and put in its way."""

from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.doorbell import QUEUE
from jobs.models import Job
from service.settings import ServiceSettings

Sessions = sessionmaker[Session]


def rings(settings: ServiceSettings) -> int:
    return len(list((settings.broker_dir / "messages").glob(f"*.{QUEUE}.msg")))


def row(sessions: Sessions, job_id: str) -> Job:
    with sessions() as session:
        return session.get_one(Job, job_id)


def lapse(sessions: Sessions, job_id: str) -> None:
    with transaction(sessions) as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=1.0))
