"""Puts jobs of lost workers back in the queue and rings for those that nobody answered.

Its own process (`python -m service.sweeper`); any number of them may run.
"""

from __future__ import annotations

import logging
import sys

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import connect, session_factory, transaction
from jobs.errors import JobFailure, LeaseLost
from jobs.settings import Settings
from jobs.status import Reason
from jobs.store import attempts, creations
from service.doorbell import Doorbell
from service.log import configure
from service.signals import StopSignal
from service.startup import schema_fault

logger = logging.getLogger(__name__)

# How long a waiting job's last ring counts as heard.
RING_EVERY_SECONDS = 5.0


def sweep(sessions: sessionmaker[Session], doorbell: Doorbell, settings: Settings) -> None:
    """One round: expired leases first, so that the ring covers what they put back."""
    with sessions() as session:
        expired = attempts.expired(session)
    for claimed in expired:
        _requeue(sessions, claimed, settings)
    with transaction(sessions) as session:
        is_due = attempts.ring_due(session, every_seconds=RING_EVERY_SECONDS)
        creations.forget_old(session)
    if is_due:
        doorbell.ring()


def _requeue(sessions: sessionmaker[Session], claimed: attempts.Claim, settings: Settings) -> None:
    loss = JobFailure(
        Reason.WORKER_LOST,
        f"The worker of attempt {claimed.attempt} has not been heard of for "
        f"{settings.lease_seconds:g} seconds.",
    )
    try:
        with transaction(sessions) as session:
            attempts.seize(session, claimed)
            status = attempts.lose(session, claimed, loss, max_losses=settings.max_losses)
    except LeaseLost:
        return  # it was renewed or ended meanwhile, or another sweeper was faster
    logger.warning("%s: attempt %d was lost, now %s", claimed.job_id, claimed.attempt, status)


def main() -> int:
    """Sweep until SIGTERM or SIGINT; 1 when the database is of another version than this code.

    A database or broker that is away is logged and waited for.
    """
    configure()
    stop, settings = StopSignal(), Settings()
    fault = schema_fault(settings)
    if fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    engine = connect(settings.sqlalchemy_url)
    sessions, doorbell = session_factory(engine), Doorbell(settings)
    while True:
        try:
            sweep(sessions, doorbell, settings)
        except SQLAlchemyError as error:
            logger.error("the database does not answer, sweeping again soon: %s", error)
        if stop.wait(settings.sweep_seconds):
            break
    doorbell.close()
    engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
