"""Times in the tables against the database's clock, which may be set back under them."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from jobs.db import now
from jobs.models import Job
from jobs.settings import MAX_LEASE_SECONDS

# Leases are the longest of what is planned ahead.
FORESEEABLE_SECONDS = MAX_LEASE_SECONDS + 10.0


def has_come(
    planned: InstrumentedAttribute[float] | InstrumentedAttribute[float | None],
) -> ColumnElement[bool]:
    """Whether a planned time is over, or so far away that the clock was set back since."""
    time = select(now()).scalar_subquery()  # asked once, not for each row of a long queue
    return or_(planned <= time, planned > time + FORESEEABLE_SECONDS)


def lease_has_ended() -> ColumnElement[bool]:
    """Whether nobody holds a lease on the job any more."""
    return or_(Job.lease_expires_at.is_(None), has_come(Job.lease_expires_at))


def was_not_rung_within(seconds: float) -> ColumnElement[bool]:
    """Whether the job's last ring is older; the future's are of a clock that was set back."""
    return or_(Job.rung_at.is_(None), Job.rung_at < now() - seconds, Job.rung_at > now())
