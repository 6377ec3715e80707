"""Slots of this machine: one per visible GPU, one on a CPU machine, each held by a file lock.

The lock is handed on to the trainer process, so a slot stays taken while either the supervisor or
its trainer lives: a device is never given out while an orphan still holds its memory.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.devices import Device, device_of, visible_gpus


@dataclass(frozen=True)
class Slot:
    index: int
    lock_fd: int
    gpu: str | None
    """What CUDA_VISIBLE_DEVICES is set to for the trainer; None on a CPU machine."""
    device: Device


@contextmanager
def free_slot(folder: Path) -> Iterator[Slot | None]:
    """A slot nobody holds, for as long as the block runs; None when all are taken.

    The locks live in `folder`, which is this machine's alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gpus = visible_gpus()
    for index in range(max(1, len(gpus))):
        lock_fd = os.open(folder / f"{index}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_fd)
            continue
        try:
            gpu = gpus[index] if gpus else None
            yield Slot(index=index, lock_fd=lock_fd, gpu=gpu, device=device_of(gpu))
        finally:
            os.close(lock_fd)
        return
    yield None
