"""Models on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from jobs.registry import STARTER
from jobs.registry import BaseModel as Base
from jobs.store.tuned_models import TunedModel


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(BaseModel):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


def base_object(model: Base) -> ModelObject:
    assert model.folder is not None
    return ModelObject(
        id=model.name,
        created=int((model.folder / "config.json").stat().st_mtime),
        owned_by=_owner(model.name),
    )


def _owner(name: str) -> str:
    if name == STARTER:
        return "honed"
    # A folder belongs to the operator, a hub's model to its publisher.
    return name.partition("/")[0] or "operator"


def tuned_object(model: TunedModel) -> ModelObject:
    return ModelObject(
        id=model.name,
        created=int(model.checkpoint.created_at),
        owned_by=model.job.project_id,
    )
