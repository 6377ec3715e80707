"""What only the model and the machine can decide, decided once: a resume reuses it bit for bit."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import torch

from jobs.hyperparameters import Hyperparameters
from worker.grpo.config import GrpoConfig
from worker.grpo.rollout import Sampler
from worker.grpo.types import Prompt

NUM_PROBE_PROMPTS = 16
MAX_PROBE_TOKENS = 1024
LENGTH_MARGIN = 1.3
MIN_COMPLETION_TOKENS = 8
PROBE_SECONDS = 0.05
CUDA_MICRO_BATCH_TOKENS = 16384
CPU_MICRO_BATCH_TOKENS = (256, 4096)
CPU_FLOPS = 50e9
CPU_PASS_SECONDS = 3.0

# Hyperparameters that the engine takes as they are, under the same name.
SAME = (
    "batch_size",
    "group_size",
    "updates_per_rollout",
    "max_completion_tokens",
    "temperature",
    "mask_truncated",
    "overlong_buffer_tokens",
    "loss_type",
    "importance_level",
    "advantage_scale",
    "reward_aggregation",
    "clip_eps_low",
    "clip_eps_high",
    "delta",
    "cispo_max_ratio",
    "sapo_temperature_pos",
    "sapo_temperature_neg",
    "kl_coef",
    "kl_estimator",
    "kl_ratio_correction",
    "entropy_coef",
    "sampler_correction",
    "sampler_ratio_min",
    "sampler_ratio_max",
    "sampler_check_interval",
    "dynamic_sampling",
    "max_refills",
    "learning_rate",
    "warmup_steps",
    "max_grad_norm",
    "eval_interval",
    "eval_pass_k",
    "eval_pass_threshold",
    "early_stopping_patience",
)


DEFAULTS = {
    name: field.default for name, field in Hyperparameters.model_fields.items() if name in SAME
}


def probe_threads(hidden_size: int) -> int:
    """The number of torch threads that multiply a model-sized matrix fastest, right now.

    A core that another process holds stalls every barrier: then fewer threads are faster. So two
    jobs may come to other numbers, and with them to other last bits; `OMP_NUM_THREADS` bounds it.
    """
    best, best_rate = 1, 0.0
    for threads in range(1, _most_threads() + 1):
        torch.set_num_threads(threads)
        rate = _multiplications(hidden_size)
        # A second thread must earn its keep: a tie goes to fewer.
        if rate > best_rate * 1.15:
            best, best_rate = threads, rate
    torch.set_num_threads(best)
    return best


def _most_threads() -> int:
    cores = len(os.sched_getaffinity(0))
    # Torch reads the variable when it is imported.
    return min(cores, torch.get_num_threads()) if "OMP_NUM_THREADS" in os.environ else cores


def _multiplications(hidden_size: int) -> float:
    rows, weights = torch.ones(64, hidden_size), torch.ones(hidden_size, 4 * hidden_size)
    rows @ weights
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < PROBE_SECONDS:
        rows @ weights
        count += 1
    return count / (time.perf_counter() - start)


def probe_completion_tokens(
    sampler: Sampler,
    prompts: list[Prompt],
    *,
    seed: int,
    room: int,
    interrupt: Any,
    at_least: int,
) -> int:
    """1.3 x the 95th percentile of what the base model says to some of the prompts.

    Not below `at_least`, the room of the effort that was asked for, and within the context.
    """
    cap = min(room, MAX_PROBE_TOKENS)
    groups = sampler.sample(
        prompts[:NUM_PROBE_PROMPTS],
        num_samples=4,
        max_tokens=cap,
        temperature=1.0,
        seed=seed,
        on_finished=lambda rollout: None,
        interrupt=interrupt,
    )
    lengths = sorted(len(rollout.completion_ids) for group in groups for rollout in group)
    p95 = lengths[math.ceil(0.95 * len(lengths)) - 1]
    return min(room, max(MIN_COMPLETION_TOKENS, at_least, math.ceil(LENGTH_MARGIN * p95)))


def micro_batch_tokens(num_parameters: int, device: str) -> int:
    """Padded tokens in one forward and backward pass.

    A pass cannot be interrupted, and a cancel is to act within seconds: on a CPU it is as long as
    a few seconds allow, at 6 floating-point operations a parameter and token.
    """
    if device == "cuda":
        return CUDA_MICRO_BATCH_TOKENS
    fewest, most = CPU_MICRO_BATCH_TOKENS
    return max(fewest, min(most, int(CPU_PASS_SECONDS * CPU_FLOPS / (6 * num_parameters))))


def grpo_config(
    resolved: dict[str, Any], *, seed: int, component_weights: dict[str, float]
) -> GrpoConfig:
    """The engine's configuration of a job whose every number is resolved.

    `component_weights` is what each component weighs in the grader's reward. A job that an earlier
    release resolved lacks the numbers that are newer than it: they have their defaults.
    """
    asked = {**DEFAULTS, **resolved["hyperparameters"]}
    return GrpoConfig(
        total_steps=asked["max_steps"],
        seed=seed,
        component_weights=component_weights,
        micro_batch_tokens=resolved["machine"]["micro_batch_tokens"],
        **{name: asked[name] for name in SAME},
    )
