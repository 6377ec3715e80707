"""What this server can do: its grader types, and how it isolates users' Python."""

from __future__ import annotations

from fastapi import APIRouter

from jobs.errors import NoIsolation
from jobs.graders import GRADER_TYPES, GraderSpec, Means
from jobs.graders.sandbox.isolation import isolation
from service.auth import CurrentProject
from service.dependencies import MeansOf
from service.wire.capabilities import Capabilities, GraderType, PythonGraders
from service.wire.errors import answers

router = APIRouter(prefix="/v1", tags=["capabilities"])


@router.get("/capabilities", responses=answers(401))
def capabilities(project_id: CurrentProject, means: MeansOf) -> Capabilities:
    """What jobs may ask of this server. The isolation is that of the machine that answers."""
    return Capabilities(
        graders=[_type(name, spec, means) for name, spec in sorted(GRADER_TYPES.items())],
        python_graders=_python_graders(),
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
