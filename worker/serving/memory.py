"""Whether a base fits in memory now, beside everything else that runs on the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import psutil
import torch

from jobs import devices

GIB = 1 << 30
# Left to others: the trainer's next step, the service, the kernel's cache.
RESERVE_BYTES = {"cpu": 1 * GIB, "cuda": 2 * GIB}
# Below it whoever can unload does: the next thing the kernel does is to kill somebody.
SCARCE_BYTES = GIB // 2
# Beside the weights: activations, and keys and values of a few answers.
MARGIN = 1.1

_CGROUP = Path("/sys/fs/cgroup")
_STORED_BYTES = {"float64": 8, "float32": 4}


def device_type() -> Literal["cpu", "cuda"]:
    """Where bases are held."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def needed_bytes(folder: Path, device: str | None = None) -> int:
    """About what a base takes once it is loaded: fp32 on the CPU, bf16 on a GPU.

    On the device where bases are held, unless another is named.
    """
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config) | config
    stored = _STORED_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 2)
    loaded = 2 if (device or device_type()) == "cuda" else 4
    on_disk = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return int(on_disk * loaded / stored * MARGIN)


def free_bytes() -> int:
    """What is free where bases are held: on the GPU, or in memory within the container's bound."""
    if device_type() == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return min(psutil.virtual_memory().available, _container_bytes())


def total_bytes() -> int:
    """All the memory there is where bases are held, whoever has it now."""
    if device_type() == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    return devices.device_of(None).memory_bytes or 1 << 62


def reserved_bytes() -> int:
    """What this process's allocator has of a GPU, weights and caches; 0 on a CPU."""
    return int(torch.cuda.memory_reserved()) if device_type() == "cuda" else 0


def is_scarce() -> bool:
    """Whether memory runs out: the GPU's, or the machine's."""
    if device_type() == "cuda" and free_bytes() < SCARCE_BYTES:
        return True
    return min(psutil.virtual_memory().available, _container_bytes()) < SCARCE_BYTES


def _container_bytes() -> int:
    """What the container's bound leaves (cgroup v2); very much where there is no bound."""
    try:
        bound = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return 1 << 62
    return 1 << 62 if bound == "max" else int(bound) - used
