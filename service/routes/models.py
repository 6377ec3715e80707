"""Base models that a job can name without asking a hub."""

from __future__ import annotations

from fastapi import APIRouter

from jobs.errors import ModelNotFound
from jobs.registry import STARTER, BaseModel, known_models
from service.auth import CurrentProject
from service.dependencies import SettingsOf
from service.wire.errors import answers
from service.wire.models import ModelList, ModelObject

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=answers(401))
def list_models(project_id: CurrentProject, settings: SettingsOf) -> ModelList:
    """The starter and the folders the operator listed. A job may also name a hub's `org/name`."""
    return ModelList(data=[_model_object(model) for model in known_models(settings)])


# A model's name holds slashes, and they arrive decoded.
@router.get("/{model:path}", responses=answers(401, 404))
def retrieve_model(model: str, project_id: CurrentProject, settings: SettingsOf) -> ModelObject:
    for known in known_models(settings):
        if known.name == model:
            return _model_object(known)
    raise ModelNotFound(f"The model '{model}' does not exist here; GET /v1/models lists them.")


def _model_object(model: BaseModel) -> ModelObject:
    assert model.folder is not None
    return ModelObject(
        id=model.name,
        created=int((model.folder / "config.json").stat().st_mtime),
        owned_by="honed" if model.name == STARTER else "operator",
    )
