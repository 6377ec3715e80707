"""Whether this process lives, and whether it can do its work."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import SQLAlchemyError

from jobs.errors import SchemaMismatch
from jobs.schema import check_schema
from service.dependencies import Resources, get_resources

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    status: Literal["ready", "not_ready"]
    checks: dict[str, str]
    """Per part `ok`, or what is wrong with it."""


@router.get("/healthz")
def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "A part is away"}})
def readyz(
    response: Response, resources: Annotated[Resources, Depends(get_resources)]
) -> Readiness:
    """Database, its version, the broker, and the artifact store where that is a bucket."""
    checks = {
        "database": _database_fault(resources) or "ok",
        "broker": resources.doorbell.fault() or "ok",
    }
    if resources.settings.artifacts_url:
        checks["artifacts"] = resources.artifacts.fault() or "ok"
    is_ready = all(found == "ok" for found in checks.values())
    if not is_ready:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return Readiness(status="ready" if is_ready else "not_ready", checks=checks)


def _database_fault(resources: Resources) -> str | None:
    try:
        check_schema(resources.engine)
    except (SQLAlchemyError, SchemaMismatch) as error:
        return str(error)
    return None
