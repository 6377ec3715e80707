"""The training state in a folder: safetensors and JSON, no pickle.

    tensors.safetensors   adapter, optimizer moments, torch's random state
    state.json            counts, configuration, checksum of the base: what the tensors belong to

The same functions keep a copy in memory while a step is under way, to go back to.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from worker.grpo.errors import InvalidCheckpoint

FORMAT = 1
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # What AdamW keeps of a parameter.
TENSORS = "tensors.safetensors"
STATE = "state.json"


def capture(parameters: Mapping[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor]:
    """Return a copy of the weights, the optimizer's moments and torch's random state."""
    tensors = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    for name, parameter in parameters.items():
        tensors[f"adapter/{name}"] = parameter.detach().clone()
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"{key}/{name}": moments[key].clone() for key in MOMENTS if key in moments}
    return tensors


@torch.no_grad()
def reinstate(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], optimizer: Optimizer
) -> None:
    """Put back what `capture` returned.

    Raises `InvalidCheckpoint`, with nothing changed, when it does not fit.
    """
    for name, parameter in parameters.items():
        saved = tensors.get(f"adapter/{name}")
        if saved is None or saved.shape != parameter.shape:
            raise InvalidCheckpoint(f"The training state has no weights that fit {name}.")
    if "rng/cpu" not in tensors:
        raise InvalidCheckpoint("The training state has no random state.")
    optimizer.state.clear()
    for name, parameter in parameters.items():
        parameter.copy_(tensors[f"adapter/{name}"])
        moments = {key: tensors[f"{key}/{name}"] for key in MOMENTS if f"{key}/{name}" in tensors}
        if moments:
            optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True) for key, value in moments.items()
            }
    torch.set_rng_state(tensors["rng/cpu"].cpu())
    if "rng/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng/cuda"].cpu())


def save_state(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a training state; the JSON comes last, so a folder that has it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / TENSORS
    )
    (folder / STATE).write_text(json.dumps({"format": FORMAT, **state}, indent=2) + "\n")


def load_state(
    folder: Path, *, expected: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON of a training state.

    Raises `InvalidCheckpoint` when there is none, or when one of the `expected` values differs
    from what was saved: a state goes on in the run it belongs to, and in no other. What an earlier
    release did not save says nothing.
    """
    try:
        state = json.loads((folder / STATE).read_text())
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidCheckpoint(f"{folder} holds no whole training state: {error}") from error
    for name, value in {"format": FORMAT, **expected}.items():
        if name in state and state[name] != value:
            raise InvalidCheckpoint(
                f"The training state in {folder} is of another run: its {name} is "
                f"{state[name]!r}, not {value!r}."
            )
    return tensors, state
