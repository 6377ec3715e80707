"""Models: bases that are on this machine, and what jobs made of them."""

from __future__ import annotations

from fastapi import APIRouter

from jobs.errors import BadRequest
from jobs.local_models import pulled
from jobs.registry import BaseModel, known_models
from jobs.settings import Settings
from jobs.store import tuned_models
from service.auth import CurrentProject
from service.dependencies import Artifacts, DbSession, SettingsOf
from service.orphans import remove_bytes
from service.wire.errors import answers
from service.wire.models import ModelDeleted, ModelList, ModelObject, base_object, tuned_object

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=answers(401))
def list_models(project_id: CurrentProject, session: DbSession, settings: SettingsOf) -> ModelList:
    """The starter, the folders the operator listed, what was pulled, finished jobs and checkpoints.

    A job may also name any other `org/name` of a hub.
    """
    tuned = tuned_models.list_all(session, project_id)
    return ModelList(
        data=[
            *(base_object(base) for base in _bases(settings)),
            *(tuned_object(model) for model in tuned),
        ]
    )


# A model's name holds slashes, and they arrive decoded.
@router.get("/{model:path}", responses=answers(401, 404))
def retrieve_model(
    model: str, project_id: CurrentProject, session: DbSession, settings: SettingsOf
) -> ModelObject:
    for base in _bases(settings):
        if base.name == model:
            return base_object(base)
    return tuned_object(tuned_models.find(session, project_id, model))


@router.delete("/{model:path}", responses=answers(400, 401, 403, 404))
def delete_model(
    model: str,
    project_id: CurrentProject,
    session: DbSession,
    settings: SettingsOf,
    artifacts: Artifacts,
) -> ModelDeleted:
    """Delete a model that a job made: its checkpoint, with the adapter, is gone afterwards."""
    if any(base.name == model for base in _bases(settings)):
        raise BadRequest(
            f"The model '{model}' is a base model; only models that jobs made can be deleted.",
            param="model",
        )
    tuned = tuned_models.find_owned(session, project_id, model)
    folder = tuned.checkpoint.folder
    tuned_models.remove(session, tuned)
    session.commit()
    remove_bytes(artifacts.remove, folder)
    return ModelDeleted(id=model)


def _bases(settings: Settings) -> list[BaseModel]:
    return [*known_models(settings), *pulled()]
