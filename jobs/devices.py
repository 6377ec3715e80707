"""The devices of this machine: one slot per visible GPU, one on a CPU machine, and their memory.

Asked of the environment and of nvidia-smi: a process that loads CUDA to look would hold it.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

# The limit of this process's control group, by both versions; a container has one of them.
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

ANSWER_SECONDS = 30


class DevicesUnknown(Exception):
    """The GPUs of this machine cannot be asked for; the message says what was said."""


@dataclass(frozen=True)
class Device:
    """What a slot trains on."""

    kind: Literal["cpu", "cuda"]
    memory_bytes: int | None
    """None where it cannot be known (a slice of a GPU): then nothing is held against it."""


def visible_gpus(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What `CUDA_VISIBLE_DEVICES` may be set to, one entry a GPU; empty on a CPU machine.

    Raises DevicesUnknown.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        # CUDA itself ignores everything from the first invalid entry on; -1 is the usual one.
        entries = [entry.strip() for entry in listed.split(",")]
        valid = [entry for entry in entries if entry]
        return tuple(valid[: valid.index("-1")] if "-1" in valid else valid)
    gpus = [line for line in _nvidia_smi("-L").splitlines() if line.startswith("GPU ")]
    return tuple(str(index) for index in range(len(gpus)))


def num_slots(environ: Mapping[str, str] = os.environ) -> int:
    """Jobs that this machine trains at the same time."""
    return max(1, len(visible_gpus(environ)))


def largest_device(environ: Mapping[str, str] = os.environ) -> Device:
    """The device of this machine with the most memory; one whose memory is not known before all.

    Raises DevicesUnknown.
    """
    devices = [device_of(gpu) for gpu in visible_gpus(environ) or (None,)]
    return max(devices, key=lambda one: math.inf if one.memory_bytes is None else one.memory_bytes)


def device_of(gpu: str | None) -> Device:
    """The device behind an entry of `visible_gpus`; None is the machine's own memory.

    Raises DevicesUnknown.
    """
    if gpu is None:
        return Device("cpu", _machine_bytes())
    if gpu.startswith("MIG-"):
        return Device("cuda", None)  # a slice, which this query does not know
    query = ("--query-gpu=memory.total", "--format=csv,noheader,nounits", "-i", gpu)
    mebibytes = _nvidia_smi(*query).strip()
    return Device("cuda", int(mebibytes) << 20 if mebibytes.isdigit() else None)


def _machine_bytes() -> int:
    total = int(psutil.virtual_memory().total)
    for path in CGROUP_LIMITS:
        try:
            limit = path.read_text().strip()
        except OSError:
            continue  # the other version, or none
        if limit.isdigit():
            total = min(total, int(limit))
    return total


@cache
def _nvidia_smi(*arguments: str) -> str:
    """What nvidia-smi prints, asked once a process; nothing where there is no such tool.

    A tool that is there and fails is no CPU machine: jobs would train on its processor unasked.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        found = subprocess.run(
            [tool, *arguments],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DevicesUnknown(f"nvidia-smi cannot be asked for the GPUs: {error}") from error
    if found.returncode != 0:
        said = (found.stdout + found.stderr).strip()
        raise DevicesUnknown(f"nvidia-smi failed with exit code {found.returncode}: {said}")
    return found.stdout
