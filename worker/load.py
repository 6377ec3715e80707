"""The base model with a fresh adapter on it, on the device that there is."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from jobs.errors import JobFailure
from jobs.hyperparameters import Lora
from jobs.status import Reason
from worker.grpo.errors import UnsupportedModel
from worker.grpo.policy import LoraSettings, Policy

# A bar of progress is drawn on terminals; in a log it is no line.
disable_progress_bar()


def load_policy(folder: Path, lora: Lora, *, seed: int) -> Policy:
    """The base with a fresh adapter, on the device there is. Raises JobFailure, GrpoError."""
    try:
        return Policy.load(
            folder,
            lora=LoraSettings(rank=lora.rank, alpha=lora.alpha, target_modules=lora.target_modules),
            seed=seed,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
    except UnsupportedModel:
        raise
    except ValueError as error:  # PEFT's word for layers that are not there
        raise JobFailure(
            Reason.INVALID_HYPERPARAMETERS,
            f"The adapter cannot be put on this model: {error}",
            param="method.reinforcement.hyperparameters.lora.target_modules",
        ) from error
