"""The rows of a comparison: Honed, TRL at its best, TRL as it comes."""

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.presets import Workload

# 40 % of TRL's step on a CPU can go into giving memory back and taking it again.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
DEFAULT_MICRO_BATCH = 8  # TrainingArguments' own.
CONTINUOUS_BATCHING = {"max_memory_percent": 0.5}  # The rest is for training.

Kind = Literal["honed", "best", "defaults"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One process of the comparison."""

    name: str
    kind: Kind
    """Of the rows of TRL at its best the fastest counts; "defaults" is TRL as it comes."""
    module: str
    options: dict[str, Any]
    environment: dict[str, str]
    num_warmup_steps: int
    num_steps: int


def rows_of(workload: Workload, *, device: str, micro_batch_tokens: int) -> list[Row]:
    """Return what is run, in this order."""
    honed = Row(
        name="Honed",
        kind="honed",
        module="benchmarks.honed_side",
        options={"micro_batch_tokens": micro_batch_tokens},
        environment={},
        num_warmup_steps=workload.num_warmup_steps,
        num_steps=workload.num_steps,
    )
    return [honed, *_tuned(workload, device), _defaults(workload)]


def _tuned(workload: Workload, device: str) -> list[Row]:
    """TRL without gradient checkpointing, in each split and each way to generate that there is."""
    rows = []
    for generation, generation_options in _generations(workload, device).items():
        for autocast in (True, False) if workload.dtype == "bf16" else (False,):
            for split in workload.trl_micro_batches:
                label = [f"{split} x {workload.num_rollouts // split}"]
                label += [generation] if generation else []
                label += ["autocast" if autocast else "no autocast"] * (workload.dtype == "bf16")
                rows.append(
                    Row(
                        name=f"TRL tuned ({', '.join(label)})",
                        kind="best",
                        module="benchmarks.trl_side",
                        options={
                            "per_device_train_batch_size": split,
                            "gradient_checkpointing": False,
                            "base_dtype": workload.dtype,
                            "bf16": autocast,
                            **generation_options,
                        },
                        environment=KEEP_MEMORY if device == "cpu" else {},
                        num_warmup_steps=workload.num_warmup_steps,
                        num_steps=workload.num_steps,
                    )
                )
    return rows


def _generations(workload: Workload, device: str) -> dict[str, dict[str, Any]]:
    """Return the ways in which TRL can draw completions here, by name, with their options."""
    if not workload.is_for_gpu:
        return {"": {}}
    ways: dict[str, dict[str, Any]] = {}
    if device == "cuda" and importlib.util.find_spec("vllm"):
        ways["vLLM"] = {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": 0.4,
        }
    ways["own generation"] = {}
    ways["continuous batching"] = {
        "use_transformers_continuous_batching": True,
        "transformers_continuous_batching_config": CONTINUOUS_BATCHING,
    }
    return ways


def _defaults(workload: Workload) -> Row:
    """TRL's own defaults, but for what the workload says. A step or two: it is slow."""
    split = min(DEFAULT_MICRO_BATCH, workload.num_rollouts)
    return Row(
        name=f"TRL defaults ({split} x {workload.num_rollouts // split})",
        kind="defaults",
        module="benchmarks.trl_side",
        options={
            "per_device_train_batch_size": split,
            "base_dtype": workload.dtype,
            # TRL's default is bf16 autocast: it stays where the comparison is in bf16.
            "bf16": workload.dtype == "bf16",
        },
        environment={},
        num_warmup_steps=1,
        num_steps=min(2, workload.num_steps),
    )
