"""Who beside its owner may use a checkpoint as a model."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response

from jobs.store import permissions, tuned_models
from service.auth import CurrentCaller, CurrentProject
from service.bodies import JsonBody, body_schema, parsed
from service.dependencies import After, DbSession, Limit
from service.idempotency import OnceOnly
from service.wire.errors import answers
from service.wire.pages import CursorPage
from service.wire.permissions import (
    CreatePermissionsRequest,
    PermissionDeleted,
    PermissionObject,
    permission_object,
)

# A model's name holds slashes, and they arrive decoded.
router = APIRouter(
    prefix="/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions",
    tags=["checkpoint permissions"],
)


@router.post(
    "",
    response_model=CursorPage[PermissionObject],
    responses=answers(400, 401, 403, 404, 408, 413, 422, 429),
    openapi_extra=body_schema(CreatePermissionsRequest.__name__),
)
def create_permissions(
    checkpoint: str, body: JsonBody, caller: CurrentCaller, session: DbSession, once: OnceOnly
) -> Response:
    """Let other projects list and sample a checkpoint; `checkpoint` is its model name."""
    request = parsed(body, CreatePermissionsRequest)
    repeated = once.repeated(body)
    if repeated is not None:
        return repeated
    tuned = tuned_models.find_owned(session, caller.project_id, checkpoint)
    granted = [
        permissions.grant(session, tuned, project_id)
        for project_id in dict.fromkeys(request.project_ids)
    ]
    answer = CursorPage[PermissionObject].of(
        [permission_object(permission) for permission, _ in granted], has_more=False
    )
    made = next((permission.id for permission, is_new in granted if is_new), None)
    return once.made(made, answer)


@router.get("", responses=answers(400, 401, 403, 404))
def list_permissions(
    checkpoint: str,
    project_id: CurrentProject,
    session: DbSession,
    after: After = None,
    limit: Limit = 10,
    order: Literal["ascending", "descending"] = "descending",
    of_project: Annotated[str | None, Query(alias="project_id")] = None,
) -> CursorPage[PermissionObject]:
    """Who may use a checkpoint, the latest permission first unless `order=ascending`."""
    tuned = tuned_models.find_owned(session, project_id, checkpoint)
    found = permissions.list_page(
        session,
        tuned,
        after=after,
        limit=limit,
        newest_first=order == "descending",
        project_id=of_project,
    )
    return CursorPage[PermissionObject].of(
        [permission_object(permission) for permission in found.rows], has_more=found.has_more
    )


@router.delete("/{permission_id}", responses=answers(400, 401, 403, 404))
def delete_permission(
    checkpoint: str, permission_id: str, project_id: CurrentProject, session: DbSession
) -> PermissionDeleted:
    """Take a permission back: from now on that project does not see the checkpoint."""
    tuned = tuned_models.find_owned(session, project_id, checkpoint)
    permissions.revoke(session, permissions.get(session, tuned, permission_id))
    session.commit()
    return PermissionDeleted(id=permission_id)
