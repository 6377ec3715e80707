"""Moments of a job's life at which a fault strikes: any, and the worst ones."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from topology import Topology

from jobs.status import TERMINAL

PATIENCE_SECONDS = 60.0


@dataclass
class Standing:
    """Where a job stands by the database."""

    status: str
    attempt: int
    phase: str | None
    step: int
    """The furthest step that has a metrics row; -1 before the first."""

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL


def standing(topology: Topology, job_id: str) -> Standing:
    (row,) = topology.rows(
        "SELECT status, attempt, phase, (SELECT max(step) FROM metrics WHERE job_id = jobs.id)"
        " AS step FROM jobs WHERE id = :id",
        id=job_id,
    )
    return Standing(row.status, row.attempt, row.phase, -1 if row.step is None else row.step)


def await_moment(
    moment: str, topology: Topology, job_id: str, *, total_steps: int, random: Random
) -> str:
    """Return when the moment is there, or has passed; the status of the job then."""
    wanted = random.uniform(0.0, 0.7)
    started_at: Standing = standing(topology, job_id)
    step = started_at.step + wanted * (total_steps - max(started_at.step, 0))
    come: dict[str, Callable[[Standing], Any]] = {
        "validating": lambda now: now.status == "validating_files",
        "claimed": lambda now: now.status == "running",
        "stepping": lambda now: now.step >= step,
        "saving": lambda now: now.step >= step and _is_saving(topology),
        "ending": lambda now: now.step >= total_steps,
    }
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        now = standing(topology, job_id)
        if now.is_over or come[moment](now):
            break
        if moment in ("validating", "claimed") and now.step >= 0:
            break
    return now.status


def _is_saving(topology: Topology) -> bool:
    """Wait a little for a checkpoint that is being written: it takes milliseconds."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        if any((topology.artifacts / "tmp").glob("*/folder")):
            return True
        time.sleep(0.001)
    return False


# In the order in which a job comes to them.
ORDER = ("validating", "claimed", "stepping", "saving", "ending")
