"""A checksum of weights that runs where the weights are, to show that they did or did not move."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

CHUNK = 1 << 24  # Elements at a time: bounds the 64-bit temporaries to 128 MiB.
SMALL = 1 << 14  # Elements of a tensor whose sum costs less than the calls that it takes.
TOGETHER = 64  # Of those, as many at a time: bounds their temporaries to 16 MiB.
PRIME = 1_000_003
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a hex digest over names, shapes, dtypes and every bit of the values.

    It catches change, not malice: a position-weighted 64-bit sum stands for each tensor's bits,
    which costs one pass on the device instead of a copy of the model to the CPU.
    """
    names = sorted(tensors)
    folds = _folds([tensors[name].detach() for name in names])
    digest = hashlib.sha256()
    for name, fold in zip(names, folds, strict=True):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {fold}\n".encode())
    return digest.hexdigest()


def _folds(tensors: Sequence[Tensor]) -> list[int]:
    """Return sum(bits[i] * (i * PRIME + 1)) modulo 2**64 of each tensor.

    Small neighbours are computed together: an adapter has many, and calls take longer than sums.
    """
    folds: list[int] = []
    for (_, _, is_small), neighbours in groupby(tensors, key=_kind):
        run = list(neighbours)
        if is_small:
            for start in range(0, len(run), TOGETHER):
                folds += _folds_together(run[start : start + TOGETHER])
        else:
            folds += map(_fold, run)
    return folds


def _kind(tensor: Tensor) -> tuple[torch.device, torch.dtype, bool]:
    return tensor.device, tensor.dtype, 0 < tensor.numel() <= SMALL


def _folds_together(tensors: Sequence[Tensor]) -> list[int]:
    """As `_folds`, of tensors of one dtype on one device."""
    sizes = [tensor.numel() for tensor in tensors]
    bits = _bits(torch.cat([tensor.flatten() for tensor in tensors])).long()
    factors = torch.arange(max(sizes), device=bits.device).mul_(PRIME).add_(1)
    bits *= torch.cat([factors[:size] for size in sizes])
    folds: list[int] = torch.stack([part.sum() for part in bits.split(sizes)]).tolist()
    return folds


def _fold(tensor: Tensor) -> int:
    bits = _bits(tensor.contiguous().flatten())
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, bits.numel(), CHUNK):
        chunk = bits[start : start + CHUNK].long()
        positions = torch.arange(start, start + chunk.numel(), device=tensor.device)
        total += (chunk * (positions * PRIME + 1)).sum()
    return int(total)


def _bits(flat: Tensor) -> Tensor:
    return flat.view(BITS[flat.element_size()])
