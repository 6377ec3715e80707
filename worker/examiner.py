"""`python -m worker.examiner cpu|cuda`: does this device compute what it should? A self-test.

It says a JSON object a line: `{"check", "passed", "found"}`, with `passed` null as the check
begins. What it computes is known beforehand: exactly, where the numbers are whole, and for the
starter model's loss and gradients as a sound machine found them. Exit code 1 where a check fails.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from jobs.registry import STARTER_FOLDER
from worker.process_tie import die_with_parent

MIB = 1 << 20

# Bytes written and read: all of that on a CPU; on a GPU half of what is free, at most.
CPU_BYTES = 128 * MIB
MAX_CUDA_BYTES = 4096 * MIB

# In the middle, all sums of products stay below 2**8: whole numbers that every dtype can hold.
SIDE = 512
INNER = 64
DTYPES = (torch.float32, torch.bfloat16)
ROUNDS = 4

# Of the products' numbers, each times its place.
KEPT_SUM = 11_984_937

# What the starter model computes from TOKENS in fp32: its loss, and the norms of two gradients.
TOKENS = tuple((7 * index * index + 3 * index) % 256 for index in range(48))
KEPT = {
    "loss": 17.730793,
    "embedding_gradient": 9.58978096,
    "first_layer_gradient": 40.2291639,
}
TOLERANCE = 1e-3


class Wrong(Exception):
    """The device computed something else than it should; the message says what."""


def check_device(device: torch.device) -> str:
    """What the device is; a GPU that cannot be reached at all fails here."""
    if device.type == "cpu":
        return f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    facts = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return (
        f"{facts.name}, {free // MIB} of {total // MIB} MiB free, torch {torch.__version__}, "
        f"{_temperature(device)}"
    )


def check_memory(device: torch.device) -> str:
    """Every byte of a large piece of memory keeps what is written to it, and its complement."""
    num_bytes = CPU_BYTES
    if device.type == "cuda":
        num_bytes = min(torch.cuda.mem_get_info(device)[0] // 4, MAX_CUDA_BYTES)
    count = num_bytes // 8
    held = torch.empty(count, dtype=torch.int64, device=device)
    step = 1 << 22  # bounds what the comparison takes beside
    for flip in (0, -1):
        for begin in range(0, count, step):
            held[begin : begin + step] = _pattern(begin, min(begin + step, count), device) ^ flip
        for begin in range(0, count, step):
            expected = _pattern(begin, min(begin + step, count), device) ^ flip
            num_wrong = int((held[begin : begin + step] != expected).sum())
            if num_wrong:
                raise Wrong(
                    f"{num_wrong} words of 8 bytes from byte {8 * begin} on are not as written"
                )
    return f"{num_bytes // MIB} MiB"


def check_products(device: torch.device, dtype: torch.dtype) -> str:
    """Products of whole numbers come out as whole numbers do, each time the same."""
    left = _whole(SIDE, INNER, 2654435761)
    right = _whole(INNER, SIDE, 2246822519)
    expected = left @ right
    found_sum = int((expected.flatten() * torch.arange(expected.numel())).sum())
    if found_sum != KEPT_SUM:
        raise Wrong(f"the whole numbers' sum is {found_sum} on the processor, not {KEPT_SUM}")
    expected = expected.to(device)
    for number in range(ROUNDS):
        product = left.to(device, dtype) @ right.to(device, dtype)
        wrong = product.to(torch.int64) != expected
        if wrong.any():
            row, column = (int(index) for index in wrong.nonzero()[0])
            raise Wrong(
                f"{int(wrong.sum())} of {wrong.numel()} numbers are wrong in round {number + 1}, "
                f"the first {float(product[row, column]):g} in the place of "
                f"{int(expected[row, column])}"
            )
    return f"{ROUNDS} products of {SIDE} x {INNER} x {SIDE}"


def check_starter(device: torch.device) -> str:
    """The starter model's loss and gradients are those that were kept."""
    found = starter_numbers(device)
    for name, kept in KEPT.items():
        if not math.isclose(found[name], kept, rel_tol=TOLERANCE):
            raise Wrong(f"{name} of the starter model is {found[name]:.7g}, kept is {kept:.7g}")
    return ", ".join(f"{name} {value:.6g}" for name, value in found.items())


def starter_numbers(device: torch.device) -> dict[str, float]:
    """The numbers that `KEPT` holds, as this device computes them."""
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        STARTER_FOLDER, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    model.to(device)
    ids = torch.tensor([TOKENS], device=device)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return {
        "loss": loss.item(),
        "embedding_gradient": _gradient_norm(model.get_submodule("model.embed_tokens")),
        "first_layer_gradient": _gradient_norm(model.get_submodule("model.layers.0")),
    }


def main() -> int:
    """Run every check, also after one that failed: what is sound is evidence too."""
    die_with_parent()
    device = torch.device(sys.argv[1])
    checks: dict[str, Callable[[], str]] = {
        "device": partial(check_device, device),
        "memory": partial(check_memory, device),
    }
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        checks[f"products in {name}"] = partial(check_products, device, dtype)
    checks["starter model"] = partial(check_starter, device)
    num_failed = sum(not _run(name, check) for name, check in checks.items())
    return 1 if num_failed else 0


def _run(name: str, check: Callable[[], str]) -> bool:
    _say(name, None, "")
    try:
        found, passed = check(), True
    except Exception as error:  # whatever a broken device makes of its driver and libraries
        traceback.print_exc()
        found, passed = str(error) if isinstance(error, Wrong) else repr(error), False
    _say(name, passed, found)
    return passed


def _say(check: str, passed: bool | None, found: str) -> None:
    sys.stdout.write(json.dumps({"check": check, "passed": passed, "found": found}) + "\n")
    sys.stdout.flush()


def _pattern(begin: int, end: int, device: torch.device) -> Tensor:
    return torch.arange(begin, end, dtype=torch.int64, device=device) * 0x5851F42D4C957F2D


def _whole(num_rows: int, num_columns: int, factor: int) -> Tensor:
    """Whole numbers from -2 to 2 in no order that a constant fault would fit."""
    index = torch.arange(num_rows * num_columns, dtype=torch.int64).reshape(num_rows, num_columns)
    return (index * factor >> 16) % 5 - 2


def _gradient_norm(module: torch.nn.Module) -> float:
    squares = [p.grad.double().square().sum() for p in module.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def _temperature(device: torch.device) -> str:
    try:
        return f"{torch.cuda.temperature(device)} degrees Celsius"
    except (ImportError, RuntimeError) as error:  # NVML's Python library is not installed
        return f"temperature unknown ({error})"


if __name__ == "__main__":
    sys.exit(main())
