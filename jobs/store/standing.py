"""How the whole system stands, for whoever watches it: all projects' jobs, leases and doorbells."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.models import Job, Json
from jobs.status import HELD, Status
from jobs.store import devices
from jobs.store.clocks import has_come, lease_has_ended

# Waiting jobs are rung for every five seconds: one that waits longer waits for the sweeper.
OWED_SECONDS = 15.0


@dataclass
class WorkerLeases:
    """What a worker holds."""

    oldest_seconds: float = 0.0
    """Since its most silent lease was renewed."""
    gpus: list[Json] = field(default_factory=list)
    """What its trainers said last of their GPUs."""


@dataclass(frozen=True)
class Standing:
    """One look at the tables."""

    jobs: dict[str, int]
    """Of every state, also of those that no job is in."""
    oldest_queued_seconds: float
    num_owed: int
    """Jobs that wait for a worker and for which nobody has rung lately."""
    workers: dict[str, WorkerLeases]
    devices: dict[str, int]
    """`healthy` and `unhealthy` ones."""


def look(session: Session, *, lease_seconds: float) -> Standing:
    """How things stand; a lease was renewed `lease_seconds` before its end."""
    found = session.execute(select(Job.status, func.count()).group_by(Job.status))
    counted = dict.fromkeys(map(str, Status), 0)
    counted.update((status, number) for status, number in found)
    queued = (Job.status == Status.QUEUED, has_come(Job.claimable_at))
    oldest = session.scalar(select(func.max(now() - Job.claimable_at)).where(*queued))
    waits = or_(Job.status == Status.VALIDATING_FILES, queued[0] & queued[1])
    last_rung = func.coalesce(Job.rung_at, Job.claimable_at)
    owed = select(func.count()).where(waits, lease_has_ended(), last_rung < now() - OWED_SECONDS)
    return Standing(
        jobs=counted,
        oldest_queued_seconds=max(0.0, oldest or 0.0),
        num_owed=session.scalar(owed) or 0,
        workers=_workers(session, lease_seconds),
        devices=_devices(session),
    )


def _devices(session: Session) -> dict[str, int]:
    healthy = [device.is_healthy for device in devices.listed(session)]
    return {"healthy": healthy.count(True), "unhealthy": healthy.count(False)}


def _workers(session: Session, lease_seconds: float) -> dict[str, WorkerLeases]:
    silent = (now() - Job.lease_expires_at + lease_seconds).label("silent_seconds")
    query = select(Job.lease_owner, silent, Job.progress).where(
        Job.status.in_((*HELD, Status.VALIDATING_FILES)), Job.lease_owner.is_not(None)
    )
    workers: dict[str, WorkerLeases] = {}
    for owner, seconds, progress in session.execute(query):
        # `name:pid`; the number is another one after each restart.
        name = str(owner).rpartition(":")[0] or str(owner)
        leases = workers.setdefault(name, WorkerLeases())
        leases.oldest_seconds = max(leases.oldest_seconds, seconds or 0.0)
        if "gpu" in progress:
            leases.gpus.append(progress["gpu"])
    return workers
