"""Which base models a job may name, and what is known of each before its files are read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import BadRequest, ModelNotFound
from jobs.settings import Settings

STARTER = "honed/starter"
STARTER_FOLDER = Path(__file__).resolve().parent.parent / "worker" / "starter"

DEFAULT_LEARNING_RATE = 2e-5

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?")


@dataclass(frozen=True)
class BaseModel:
    """A base a job can start from: a folder on disk, or a hub name to be pinned and fetched."""

    name: str
    folder: Path | None
    learning_rate: float = DEFAULT_LEARNING_RATE


def find_model(name: str, settings: Settings) -> BaseModel:
    """The model that a job names. Raises ModelNotFound or BadRequest with what to do.

    Only what can be known at once: a hub name's existence is found out during validation.
    """
    if name == STARTER:
        return _starter()
    if name.startswith("honed/"):
        raise ModelNotFound(f"The model '{name}' does not exist; this server ships '{STARTER}'.")
    if name.startswith(("/", "~", ".")):
        return _local(name, settings)
    if name.startswith("ft:"):
        raise ModelNotFound(
            f"The model '{name}' cannot be trained further on this server yet: "
            "name the base model it came from."
        )
    if _HUB_NAME.fullmatch(name):
        return BaseModel(name=name, folder=None)
    raise ModelNotFound(
        f"The model '{name}' does not exist here. Name '{STARTER}', a Hugging Face model as "
        "'org/name', or a folder under one of the operator's model roots."
    )


def known_models(settings: Settings) -> list[BaseModel]:
    """What can be named without asking a hub: the starter, then the folders under the roots."""
    folders = sorted(
        config.parent
        for root in settings.model_roots
        for pattern in ("config.json", "*/config.json", "*/*/config.json")
        for config in root.expanduser().resolve().glob(pattern)
        if any(config.parent.glob("*.safetensors"))
    )
    return [_starter(), *(BaseModel(name=str(folder), folder=folder) for folder in folders)]


def _starter() -> BaseModel:
    entry = json.loads((STARTER_FOLDER / "registry.json").read_text())
    return BaseModel(
        name=STARTER,
        folder=STARTER_FOLDER,
        learning_rate=entry["learning_rate"],
    )


def _local(name: str, settings: Settings) -> BaseModel:
    folder = Path(name).expanduser().resolve()
    roots = [root.expanduser().resolve() for root in settings.model_roots]
    if not any(folder == root or root in folder.parents for root in roots):
        raise ModelNotFound(
            f"The model folder '{name}' is not under a folder this server's operator has listed; "
            "the operator adds one with HONED_MODEL_ROOTS."
        )
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"The model folder '{name}' holds no config.json.")
    if not any(folder.glob("*.safetensors")):
        raise BadRequest(
            f"The model folder '{name}' holds no safetensors weights. Pickled weights "
            "(.bin, .pt) are not loaded here: convert them with save_pretrained().",
            param="model",
            code="model_without_safetensors",
        )
    return BaseModel(name=name, folder=folder)
