"""What this machine brings: its devices, the isolation of users' Python, its clock."""

from __future__ import annotations

import time

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from jobs.db import connect, now, session_factory
from jobs.devices import Device, DevicesUnknown, device_of, visible_gpus
from jobs.errors import NoIsolation
from jobs.graders.sandbox.isolation import OPT_IN, isolation
from jobs.store.devices import listed
from service.doctor.checkup import Finding, fail, ok, warn
from service.doctor.stores import is_missing
from service.settings import ServiceSettings

# More than any two machines with a time service are apart.
SKEW_SECONDS = 5.0
NUM_READINGS = 5


def device(settings: ServiceSettings) -> Finding:
    """The GPUs answer, or there are none and jobs would train on the processor."""
    try:
        gpus = visible_gpus()
        devices = [device_of(gpu) for gpu in gpus or (None,)]
    except DevicesUnknown as error:
        return fail(
            f"{error}",
            "A worker does not start here. Mend the driver (a restart of the machine often does), "
            "or leave its GPUs alone with CUDA_VISIBLE_DEVICES= to train on the processor.",
        )
    if unfit := _unfit(settings):
        return fail(
            f"A worker's self-test failed here, and it claims nothing: {unfit}",
            "Mend the device (docs/fairness.md). `python -m worker.examiner cuda` (or `cpu`) tests "
            "it by hand; a worker that is started again tests it at once.",
        )
    shown = ", ".join(_shown(one) for one in devices)
    return ok(f"{len(gpus)} GPU(s): {shown}." if gpus else f"No GPU: jobs would train on {shown}.")


def _unfit(settings: ServiceSettings) -> str:
    """What was wrong with devices of this machine's worker at their last self-test."""
    if is_missing(settings):
        return ""
    engine = connect(settings.sqlalchemy_url)
    try:
        with session_factory(engine)() as session:
            return "; ".join(
                f"slot {found.slot}: {(found.evidence or {}).get('reason', '')}"
                for found in listed(session)
                if found.worker == settings.worker_name and not found.is_healthy
            )
    except SQLAlchemyError:
        return ""  # the database has a finding of its own
    finally:
        engine.dispose()


def _shown(found: Device) -> str:
    name = "the processor" if found.kind == "cpu" else "a GPU"
    if found.memory_bytes is None:
        return name
    return f"{name} with {found.memory_bytes / 1024**3:.1f} GiB"


def sandbox(settings: ServiceSettings) -> Finding:
    """Users' Python graders can be isolated: the strongest level is started and attacks itself."""
    try:
        found = isolation()
    except NoIsolation as refusal:
        return fail(
            str(refusal), "Install bubblewrap (`apt-get install bubblewrap`); see docs/sandbox.md."
        )
    if found.level == "none":
        return warn(
            f"Users' Python runs without isolation: {found.reason}.",
            f"Install bubblewrap and take {OPT_IN} away.",
        )
    return ok(f"Users' Python is isolated by {found.level}: {found.reason}.")


def clock(settings: ServiceSettings) -> Finding:
    """This machine and the database agree on the time."""
    if is_missing(settings):
        return ok("There is no database yet to compare this machine's clock with.")
    engine = connect(settings.sqlalchemy_url)
    try:
        skew = _skew_seconds(engine)
    except SQLAlchemyError:
        return warn(
            "The database, whose clock is the one that counts, does not answer.",
            "Mend the database first.",
        )
    finally:
        engine.dispose()
    if abs(skew) > SKEW_SECONDS:
        return fail(
            f"The database's clock is {abs(skew):.1f} seconds "
            f"{'ahead of' if skew > 0 else 'behind'} this machine's.",
            "Let both keep time with NTP (`timedatectl set-ntp true`). Leases go by the database's "
            "clock alone; signs of life, file ages and signatures of calls go by this machine's.",
        )
    return ok(f"This machine and the database are {abs(skew):.2f} seconds apart.")


def _skew_seconds(engine: Engine) -> float:
    """How far ahead the database's clock is, by the reading that took least time."""
    readings = []
    with engine.connect() as connection:
        for _ in range(NUM_READINGS):
            asked_at, began = time.time(), time.monotonic()
            there = connection.scalar(select(now()))
            took = time.monotonic() - began
            readings.append((took, float(there or 0.0) - asked_at - took / 2))
    return min(readings)[1]
