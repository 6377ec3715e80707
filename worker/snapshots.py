"""What a checkpoint consists of, as it is at one moment, written while the loop goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.grpo.errors import InvalidCheckpoint
from worker.grpo.policy import Policy
from worker.grpo.trainer import Trainer

HISTORY = "history.json"

Writer = Callable[[Path], None]


def read_history(state: Path) -> dict[str, Any]:
    """What a training state has of the run's history. Raises InvalidCheckpoint."""
    try:
        history: dict[str, Any] = json.loads((state / HISTORY).read_text())
    except (OSError, ValueError) as error:
        raise InvalidCheckpoint(f"its history cannot be read: {error}") from error
    return history


def adapter_writer(policy: Policy, model: dict[str, Any], *, readme: str) -> Writer:
    """What writes the adapter as it is now into a folder."""
    weights = {name: one.clone() for name, one in policy.adapter_state().items()}

    def write(folder: Path) -> None:
        policy.save_adapter(
            folder, base_name=model["name"], revision=model["revision"], weights=weights
        )
        (folder / "README.md").write_text(readme)

    return write


def state_writer(trainer: Trainer, history: dict[str, Any]) -> Writer:
    """What writes the training state as it is now into a folder."""
    write_trainer, text = trainer.snapshot(), json.dumps(history)

    def write(folder: Path) -> None:
        write_trainer(folder)
        (folder / HISTORY).write_text(text)

    return write
