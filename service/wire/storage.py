"""What a project stores, on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from jobs.store.storage import Storage


class StoredBytes(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    files: int
    """Uploaded, and the result files of jobs. Each shows its own as `bytes`."""
    uploads: int
    """Parts of uploads that are not completed."""
    adapters: int
    """Of checkpoints, as an archive and file by file."""
    training_states: int
    """What a job that is not over can be resumed from."""
    samples: int


class StorageObject(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    object: Literal["storage"] = "storage"
    used_bytes: int
    limit_bytes: int | None
    """Null where there is no limit."""
    room_bytes: int | None
    """What may be added."""
    by_kind: StoredBytes


def storage_object(storage: Storage) -> StorageObject:
    return StorageObject(
        used_bytes=storage.used,
        limit_bytes=storage.limit,
        room_bytes=storage.room,
        by_kind=StoredBytes(
            files=storage.files,
            uploads=storage.uploads,
            adapters=storage.adapters,
            training_states=storage.training_states,
            samples=storage.samples,
        ),
    )
