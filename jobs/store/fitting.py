"""Which waiting jobs a device may take, and what is said of those that it may not."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, func, not_, or_, select, true
from sqlalchemy.orm import Session

from jobs.devices import Device
from jobs.models import Job, Json
from jobs.status import HELD, Status
from jobs.store import events
from jobs.store.clocks import has_come

GB = 1e9
ANY_DEVICE = Device("cpu", None)
FORECAST = {"cpu": Job.memory_cpu_bytes, "cuda": Job.memory_cuda_bytes}


def fits(device: Device) -> Any:
    """That a device may take a job, for a WHERE clause."""
    return and_(is_of_its_kind(device), is_small_enough(device))


def is_of_its_kind(device: Device) -> Any:
    """That a job has not begun yet, or began on a device of this kind.

    Another kind would compute other bits, and the sizes that the first attempt chose for its own
    device may not suit it.
    """
    begun_on = Job.resolved["machine"]["device"].as_string()
    # "cuda" or "cuda:0": the index is the process's, not the machine's. Before its first attempt no
    # job has begun: most of a long queue is known without reading JSON.
    return or_(
        Job.attempt == 0,
        begun_on.is_(None),
        begun_on == device.kind,
        begun_on.like(f"{device.kind}:%"),
    )


def is_small_enough(device: Device) -> Any:
    """That a job's forecast is within the device's memory."""
    forecast = FORECAST[device.kind]
    if device.memory_bytes is None:
        return true()
    return or_(forecast.is_(None), forecast <= device.memory_bytes)


def largest(session: Session, device: Device) -> int:
    """The forecast of the largest job that runs, or waits, and fits the device; 0 without one."""
    forecast = FORECAST[device.kind]
    query = select(func.max(forecast)).where(Job.status.in_((*HELD, Status.QUEUED)), fits(device))
    return session.scalar(query) or 0


def decline(session: Session, *, worker: str, device: Device) -> None:
    """Say on each waiting job that the device may not take why that is.

    Said once for each kind of device, and again only when a larger one turns the job away too.
    """
    query = (
        select(Job, FORECAST[device.kind])
        .where(Job.status == Status.QUEUED, has_come(Job.claimable_at), not_(fits(device)))
        .with_for_update(skip_locked=True)
    )
    for job, needed_bytes in session.execute(query).all():
        said = (job.turned_away or {}).get(device.kind)
        begun_on = _kind_begun_on(job)
        reason: Json = {"worker": worker}
        if begun_on not in (None, device.kind):
            reason["begun_on"] = begun_on
            is_said = said is not None
        else:
            reason |= {"needed_bytes": needed_bytes, "device_bytes": device.memory_bytes}
            is_said = said is not None and said["device_bytes"] >= device.memory_bytes
        if not is_said:
            job.turned_away = {**(job.turned_away or {}), device.kind: reason}
            events.add(session, job.id, _sentence(reason), level="warn")


def sentence(turned_away: Json) -> str:
    """Why a job waits: for memory where that is it, with a GPU's numbers before a processor's."""
    reasons = [turned_away[kind] for kind in ("cuda", "cpu") if kind in turned_away]
    return _sentence(min(reasons, key=lambda reason: "begun_on" in reason))


def _kind_begun_on(job: Job) -> str | None:
    device: str | None = job.resolved.get("machine", {}).get("device")
    return device and device.partition(":")[0]


def _sentence(reason: Json) -> str:
    worker = reason["worker"]
    if "begun_on" in reason:
        needs, has = "with a GPU", "has none"
        if reason["begun_on"] == "cpu":
            needs, has = "that trains on its processor", "trains on a GPU"
        return (
            f"Waiting for a worker {needs}: the job began on one, and on another kind of device "
            f"it would compute other numbers. Worker {worker} {has}."
        )
    needed, largest = reason["needed_bytes"] / GB, reason["device_bytes"] / GB
    return (
        f"Waiting for a device with more memory: the job needs about {needed:.1f} GB with one "
        f"sequence at a time, and the largest device that could have taken it, of worker "
        f"{worker}, has {largest:.1f} GB. A smaller model, a shorter max_completion_tokens or "
        "a smaller lora.rank needs less."
    )
