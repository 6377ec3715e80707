"""Checkpoint permissions on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.models import CheckpointPermission


class CreatePermissionsRequest(BaseModel):
    """The body of POST .../permissions: the projects that may use the checkpoint."""

    model_config = ConfigDict(extra="forbid")

    project_ids: Annotated[list[str], Field(min_length=1, max_length=100)]


class PermissionObject(BaseModel):
    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str


class PermissionDeleted(BaseModel):
    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    deleted: Literal[True] = True


def permission_object(permission: CheckpointPermission) -> PermissionObject:
    return PermissionObject(
        id=permission.id,
        created_at=int(permission.created_at),
        project_id=permission.project_id,
    )
