"""A checksum of weights that runs where the weights are, to show that they did or did not move."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

CHUNK = 1 << 24  # Elements at a time: bounds the 64-bit temporaries to 128 MiB.
PRIME = 1_000_003
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a hex digest over names, shapes, dtypes and every bit of the values.

    It catches change, not malice: a position-weighted 64-bit sum stands for each tensor's bits,
    which costs one pass on the device instead of a copy of the model to the CPU.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {_fold(tensor)}\n".encode())
    return digest.hexdigest()


def _fold(tensor: Tensor) -> int:
    """Return sum(bits[i] * (i * PRIME + 1)) modulo 2**64."""
    bits = tensor.contiguous().view(BITS[tensor.element_size()]).flatten()
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, bits.numel(), CHUNK):
        chunk = bits[start : start + CHUNK].long()
        positions = torch.arange(start, start + chunk.numel(), device=tensor.device)
        total += (chunk * (positions * PRIME + 1)).sum()
    return int(total)
