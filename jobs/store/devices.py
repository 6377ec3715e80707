"""Devices of workers: which of them are suspected, tested, unfit, and whose losses that excuses.

Two jobs that were lost on a device before their first step make it suspect: it is the device, or
chance. Its self-test tells, and only a failed one keeps it from claiming.
"""

from __future__ import annotations

import enum

from sqlalchemy import ColumnElement, and_, delete, exists, func, select, update
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.devices import Device
from jobs.models import DeviceHealth, Job, Json, Metric, Turn
from jobs.status import TERMINAL
from jobs.store import events
from jobs.store.clocks import has_come
from jobs.store.turns import WINDOW_SECONDS, Place

# Jobs that a device must lose early before it is tested: one may be the job's own fault.
NUM_SUSPICIOUS = 2

FIRST_SECONDS = 60.0
GROWTH = 5.0
# No further off than any planned time, so that a clock that is set back delays no test.
MOST_SECONDS = 600.0


# A job and the number of its attempt.
Turned = tuple[str, int]


class Fitness(enum.Enum):
    """What a device may do now."""

    CLAIM = "claim"
    TEST = "test"
    REST = "rest"


def look(session: Session, place: Place, device: Device) -> Fitness:
    """A worker looks for work for its device: may it claim, or is the device to be tested first?"""
    row = session.get(DeviceHealth, (place.worker, place.slot))
    if row is None:
        row = DeviceHealth(worker=place.worker, slot=place.slot)
        session.add(row)
    row.kind, row.memory_bytes, row.seen_at = device.kind, device.memory_bytes, now()
    session.flush()
    if not row.is_healthy:
        is_due = select(DeviceHealth.slot).where(_is_at(place), has_come(DeviceHealth.test_at))
        return Fitness.REST if session.scalar(is_due) is None else Fitness.TEST
    return Fitness.TEST if is_suspect(session, place) else Fitness.CLAIM


def is_suspect(session: Session, place: Place, *, lost_now: Turned | None = None) -> bool:
    """Whether enough jobs were lost early here since its last test.

    `lost_now` is an attempt of it that is lost and not yet noted.
    """
    lost = {*session.scalars(select(Turn.job_id).where(_is_unexplained(place)))}
    if lost_now is not None and _early(session, *lost_now) is not None:
        lost.add(lost_now[0])
    return len(lost) >= NUM_SUSPICIOUS


def record(session: Session, place: Place, evidence: Json) -> int:
    """What a self-test found. A failed one gives the early losses back; returns those of jobs."""
    row = session.get_one(DeviceHealth, (place.worker, place.slot), with_for_update=True)
    num_excused = 0 if evidence["passed"] else _excuse(session, place, evidence["reason"])
    row.num_failed = 0 if evidence["passed"] else row.num_failed + 1
    row.is_healthy, row.evidence, row.tested_at = evidence["passed"], evidence, now()
    delay = min(MOST_SECONDS, FIRST_SECONDS * GROWTH ** max(min(row.num_failed, 10) - 1, 0))
    row.test_at = None if evidence["passed"] else now() + delay
    session.flush()
    return num_excused


def test_at_once(session: Session, worker: str) -> None:
    """A worker was started: its unhealthy devices are tested before anything else."""
    session.execute(
        update(DeviceHealth)
        .where(DeviceHealth.worker == worker, ~DeviceHealth.is_healthy)
        .values(test_at=now())
        .execution_options(synchronize_session=False)
    )


def note_loss(session: Session, job_id: str, attempt: int) -> bool:
    """An attempt was lost. Whether its device, found unfit since, excuses that.

    A loss before the first step that is not excused makes the device suspect.
    """
    started_at = _early(session, job_id, attempt)
    if started_at is None:
        return False
    of_it = (Turn.job_id == job_id, Turn.attempt == attempt)
    is_excused = session.scalar(
        select(DeviceHealth.tested_at)
        .join(Turn, (Turn.worker == DeviceHealth.worker) & (Turn.slot == DeviceHealth.slot))
        .where(*of_it, ~DeviceHealth.is_healthy, DeviceHealth.tested_at > started_at)
    )
    if is_excused is not None:
        return True
    session.execute(
        update(Turn)
        .where(*of_it)
        .values(was_lost_early=True)
        .execution_options(synchronize_session=False)
    )
    return False


def listed(session: Session) -> list[DeviceHealth]:
    """All devices that were seen within a day, unfit ones first."""
    query = select(DeviceHealth).order_by(
        DeviceHealth.is_healthy, DeviceHealth.worker, DeviceHealth.slot
    )
    return list(session.scalars(query))


def forget_old(session: Session) -> None:
    """Forget devices that no worker offers any more."""
    is_used = exists().where(
        Turn.worker == DeviceHealth.worker,
        Turn.slot == DeviceHealth.slot,
        Turn.until > now() - WINDOW_SECONDS,
    )
    session.execute(
        delete(DeviceHealth)
        .where(DeviceHealth.seen_at < now() - WINDOW_SECONDS, ~is_used)
        .execution_options(synchronize_session=False)
    )


def _early(session: Session, job_id: str, attempt: int) -> float | None:
    """When an attempt began that has not finished a step; None for one that has."""
    has_begun = exists().where(Metric.job_id == job_id, Metric.attempt == attempt)
    of_it = (Turn.job_id == job_id, Turn.attempt == attempt)
    return session.scalar(select(Turn.started_at).where(*of_it, ~has_begun))


def _is_at(place: Place) -> ColumnElement[bool]:
    return (DeviceHealth.worker == place.worker) & (DeviceHealth.slot == place.slot)


def _is_unexplained(place: Place) -> ColumnElement[bool]:
    tested_at = select(DeviceHealth.tested_at).where(_is_at(place)).scalar_subquery()
    return and_(
        Turn.worker == place.worker,
        Turn.slot == place.slot,
        Turn.was_lost_early,
        Turn.started_at > func.coalesce(tested_at, 0.0),
    )


def _excuse(session: Session, place: Place, reason: str) -> int:
    """Give the jobs back what the device took from their retries."""
    lost = session.execute(
        select(Turn.job_id, func.count().label("num"))
        .where(_is_unexplained(place))
        .group_by(Turn.job_id)
        .order_by(Turn.job_id)
    ).all()
    num_excused = 0
    for job_id, num in lost:
        job = session.get_one(Job, job_id, populate_existing=True, with_for_update=True)
        if job.status in TERMINAL:
            continue
        job.num_losses = max(0, job.num_losses - num)
        if job.lost is not None:
            job.lost = {**job.lost, "num": max(0, job.lost["num"] - num)}
        session.flush()
        message = (
            f"The device of an attempt that was lost before its first step, slot {place.slot} of "
            f"worker {place.worker}, is unhealthy: {reason} The loss is not counted."
        )
        events.add(session, job_id, message, level="warn")
        num_excused += 1
    return num_excused
