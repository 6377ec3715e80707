"""What this server can do: its grader types, how it isolates users' Python, and its devices."""

from __future__ import annotations

from fastapi import APIRouter

from jobs.errors import NoIsolation
from jobs.graders import GRADER_TYPES, GraderSpec, Means
from jobs.graders.sandbox.isolation import isolation
from jobs.models import DeviceHealth
from jobs.store import devices
from service.auth import CurrentProject
from service.dependencies import DbSession, MeansOf
from service.wire.capabilities import Capabilities, DeviceObject, GraderType, PythonGraders
from service.wire.errors import answers

router = APIRouter(prefix="/v1", tags=["capabilities"])


@router.get("/capabilities", responses=answers(401))
def capabilities(project_id: CurrentProject, means: MeansOf, session: DbSession) -> Capabilities:
    """What jobs may ask of this server. The isolation is that of the machine that answers."""
    return Capabilities(
        graders=[_type(name, spec, means) for name, spec in sorted(GRADER_TYPES.items())],
        python_graders=_python_graders(),
        devices=[_device(row) for row in devices.listed(session)],
    )


def _type(name: str, spec: type[GraderSpec], means: Means) -> GraderType:
    reason = spec.why_unusable(means)
    return GraderType(
        type=name,
        description=(spec.__doc__ or "").partition("\n")[0],
        usable=reason is None,
        reason=reason,
        limitations=[] if reason else spec.limitations(means),
        json_schema=spec.model_json_schema(),
    )


def _device(row: DeviceHealth) -> DeviceObject:
    # What its process printed is for the operator, in the table and the worker's log.
    evidence = row.evidence and {key: row.evidence[key] for key in row.evidence if key != "said"}
    return DeviceObject(
        worker=row.worker,
        slot=row.slot,
        kind=row.kind,
        memory_bytes=row.memory_bytes,
        status="healthy" if row.is_healthy else "unhealthy",
        reason=None if evidence is None or row.is_healthy else evidence["reason"],
        evidence=evidence,
        tested_at=None if row.tested_at is None else int(row.tested_at),
        next_test_at=None if row.test_at is None else int(row.test_at),
    )


def _python_graders() -> PythonGraders:
    try:
        found = isolation()
    except NoIsolation as refusal:
        return PythonGraders(
            level="off", reason=str(refusal), landlock_abi=0, sealed=False, packages=[]
        )
    return PythonGraders(
        level=found.level,
        reason=found.reason,
        landlock_abi=found.landlock_abi,
        sealed=found.is_sealed,
        packages=list(found.packages),
    )
