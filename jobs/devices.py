"""How many jobs this machine runs at a time: one slot per visible GPU, one on a CPU machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping


def visible_gpus(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What `CUDA_VISIBLE_DEVICES` may be set to, one entry a GPU; empty on a CPU machine.

    Asked of the environment and of nvidia-smi: a process that loads CUDA to count would hold it.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        # CUDA itself ignores everything from the first invalid entry on; -1 is the usual one.
        entries = [entry.strip() for entry in listed.split(",")]
        valid = [entry for entry in entries if entry]
        return tuple(valid[: valid.index("-1")] if "-1" in valid else valid)
    try:
        found = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ()
    gpus = [line for line in found.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(index) for index in range(len(gpus))) if found.returncode == 0 else ()


def num_slots(environ: Mapping[str, str] = os.environ) -> int:
    """Jobs that this machine trains at the same time."""
    return max(1, len(visible_gpus(environ)))
