"""Puts jobs of lost workers back in the queue, rings for those that nobody answered, and tidies up.

Its own process (`python -m service.sweeper`); any number of them may run.
"""

from __future__ import annotations

import logging
import sys

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from jobs import alive, disk, results
from jobs.artifacts import ArtifactStore
from jobs.db import DATABASE_AWAY, connect, session_factory, transaction
from jobs.errors import JobFailure, LeaseLost
from jobs.log import configure, refuse
from jobs.settings import Settings
from jobs.status import Reason
from jobs.store import attempts, creations, departed, losses
from service.doorbell import Doorbell
from service.signals import StopSignal
from service.startup import schema_fault
from service.tidy import tidy

logger = logging.getLogger(__name__)

# How long a waiting job's last ring counts as heard.
RING_EVERY_SECONDS = 5.0

# Rings of one sweep: each wakes a process that works until nothing waits.
MAX_RINGS = 16


def sweep(sessions: sessionmaker[Session], doorbell: Doorbell, settings: Settings) -> None:
    """One round: expired leases first, so that the ring covers what they put back."""
    with sessions() as session:
        expired = attempts.expired(session)
    for claimed in expired:
        _requeue(sessions, claimed, settings)
    with transaction(sessions) as session:
        num_due = attempts.ring_due(session, every_seconds=RING_EVERY_SECONDS)
        creations.forget_old(session)
        departed.forget_old(session)
    # One ring each, so that as many workers as there are jobs come; and not through a broker that
    # takes none of them.
    for _ in range(min(num_due, MAX_RINGS)):
        if not doorbell.ring():
            break


def _requeue(sessions: sessionmaker[Session], claimed: attempts.Claim, settings: Settings) -> None:
    loss = JobFailure(
        Reason.WORKER_LOST,
        f"The worker of attempt {claimed.attempt} has not been heard of for "
        f"{settings.lease_seconds:g} seconds.",
    )
    try:
        with transaction(sessions) as session:
            attempts.seize(session, claimed)
            status = losses.lose(session, claimed, loss, max_losses=settings.max_losses)
            artifacts = ArtifactStore(settings.artifacts_dir)
            results.write_if_over(session, artifacts, claimed.job_id)
    except LeaseLost:
        return  # it was renewed or ended meanwhile, or another sweeper was faster
    except DATABASE_AWAY as error:
        # Its row is locked, by a process that stands still perhaps: the other jobs go on.
        logger.error("%s could not be requeued, trying again soon: %s", claimed.job_id, error)
        return
    except OSError as error:
        if not disk.is_full(error):
            raise
        logger.error("%s could not be ended, its result file needs room: %s", claimed.job_id, error)
        return
    logger.warning("%s: attempt %d was lost, now %s", claimed.job_id, claimed.attempt, status)


def main() -> int:
    """Sweep until SIGTERM or SIGINT; 1 when the database is of another version than this code.

    A database or broker that is away is logged and waited for.
    """
    stop, settings = StopSignal(), Settings()
    configure("sweeper", settings)
    fault = schema_fault(settings)
    if fault:
        refuse(fault, settings)
        return 1
    engine = connect(settings.sqlalchemy_url)
    sessions, doorbell = session_factory(engine), Doorbell(settings)
    artifacts = ArtifactStore(settings.artifacts_dir)
    while True:
        try:
            sweep(sessions, doorbell, settings)
            tidy(sessions, artifacts)
            alive.beat(settings, "sweeper")
        except SQLAlchemyError as error:
            logger.error("the database does not answer, sweeping again soon: %s", error)
        if stop.wait(settings.sweep_seconds):
            break
    doorbell.close()
    engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
