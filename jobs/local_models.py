"""Which models of a hub this machine has: for `/v1/models`, and for graders (none downloads)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from jobs.errors import HonedError
from jobs.registry import BaseModel, find_model
from jobs.settings import Settings


def is_name(name: str, settings: Settings) -> bool:
    """Whether a model may be called so at all."""
    try:
        find_model(name, settings)
    except HonedError:
        return False
    return True


def is_here(name: str, settings: Settings) -> bool:
    """Whether the starter, a folder under the operator's roots, or the hub's cache has the model.

    Nothing is downloaded for a grader: `honed models pull` is the operator's choice.
    """
    try:
        known = find_model(name, settings)
    except HonedError:
        return False
    if known.folder is not None:
        return True
    repo, _, revision = name.partition("@")
    snapshots = _hub_cache() / f"models--{repo.replace('/', '--')}" / "snapshots"
    return any(map(is_whole, snapshots.glob(revision or "*")))


def pulled() -> list[BaseModel]:
    """What the hub's cache has whole, by name; of several revisions the one that came last."""
    models = []
    for repo in sorted(_hub_cache().glob("models--*--*")):
        name = repo.name.removeprefix("models--").replace("--", "/")
        whole = filter(is_whole, repo.glob("snapshots/*"))
        newest = max(whole, key=lambda folder: folder.stat().st_mtime, default=None)
        if newest is not None:
            models.append(BaseModel(name=name, folder=newest))
    return models


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a configuration and all of its weights, as far as it tells itself."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = set(json.loads(index.read_text())["weight_map"].values())
    else:
        shards = {path.name for path in folder.glob("*.safetensors")}
    return bool(shards) and all((folder / name).exists() for name in {"config.json", *shards})


def _hub_cache() -> Path:
    """Where huggingface_hub keeps models, by the variables that it reads."""
    named = os.environ.get("HF_HUB_CACHE")
    if named:
        return Path(named)
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"
    )
    return Path(home).expanduser() / "hub"
