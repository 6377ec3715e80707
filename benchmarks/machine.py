"""What a number was measured on, with what, and when."""

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

NUM_PROBES, PROBE_SECONDS = 5, 0.1
PACKAGES = ("honed", "torch", "transformers", "peft", "trl", "vllm")


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and GPU, and how busy the machine is."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that were measured."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def date() -> str:
    """Return the time in UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")


def best_threads(hidden_size: int) -> int:
    """Return the number of torch threads that multiply a model-sized matrix fastest.

    The best of several looks counts, in turns: a moment in which another process holds a core
    must not decide.
    """
    cores = len(os.sched_getaffinity(0))
    rates = dict.fromkeys(range(1, cores + 1), 0.0)
    for _ in range(NUM_PROBES):
        for threads in rates:
            torch.set_num_threads(threads)
            rates[threads] = max(rates[threads], _multiplications_a_second(hidden_size))
    return max(rates, key=lambda threads: rates[threads])


def _multiplications_a_second(hidden_size: int) -> float:
    rows, weights = torch.ones(64, hidden_size), torch.ones(hidden_size, 4 * hidden_size)
    rows @ weights
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < PROBE_SECONDS:
        rows @ weights
        count += 1
    return count / (time.perf_counter() - started)
