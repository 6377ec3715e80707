"""What the first attempt decides with the model in memory, on its device, stored with the job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.store.fitting import GB
from jobs.thinking import COMPLETION_TOKENS
from worker import plan
from worker.forecast import MAX_CACHE_BYTES, ROW_LOGIT_BYTES, RUNTIME_BYTES, draw_bytes, pass_bytes
from worker.grpo.policy import Policy
from worker.grpo.rollout import Sampler
from worker.grpo.types import Prompt
from worker.serving.memory import free_bytes

# Of the memory that is free: what the forecast may err, and what others will want.
SHARE = 0.8


def decide(
    resolved: dict[str, Any],
    policy: Policy,
    sampler: Sampler,
    prompts: list[Prompt],
    *,
    seed: int,
    device_memory_gb: float | None,
    interrupt: Callable[[], None],
) -> dict[str, Any]:
    """`resolved` with every number in it: the length of completions, threads, sizes.

    A job may use `device_memory_gb` of the device; None is all that is free.
    """
    threads = plan.probe_threads(policy.base.config.get_text_config().hidden_size)
    asked, longest = dict(resolved["hyperparameters"]), resolved["longest_prompt_tokens"]
    if asked["max_completion_tokens"] == "auto":
        asked["max_completion_tokens"] = plan.probe_completion_tokens(
            sampler,
            prompts,
            seed=seed,
            room=resolved["context_length"] - longest,
            interrupt=interrupt,
            at_least=COMPLETION_TOKENS.get(asked["reasoning_effort"], 0),
        )
    memory = resolved["memory"][policy.device.type]
    free = free_bytes()
    if device_memory_gb is not None:
        loaded = memory["weights"] + RUNTIME_BYTES[policy.device.type]
        free = min(free, int(device_memory_gb * GB) - loaded)
    machine = {
        "device": str(policy.device),
        "threads": threads,
        **sizes(memory, asked, longest_prompt_tokens=longest, free_bytes=free),
    }
    return {**resolved, "hyperparameters": asked, "machine": machine}


def sizes(
    memory: dict[str, Any],
    hyperparameters: dict[str, Any],
    *,
    longest_prompt_tokens: int,
    free_bytes: int,
) -> dict[str, int]:
    """`micro_batch_tokens` of a pass and `cache_tokens` of the rows that are sampled at a time.

    `memory` is the job's forecast on this kind of device (`Forecast` as a dict), `free_bytes` what
    the device has left once the weights are in it. All of a step's rows are sampled at once where
    they fit, and nothing is ever less than one sequence.
    """
    row = longest_prompt_tokens + hyperparameters["max_completion_tokens"]
    num_rows = hyperparameters["batch_size"] * hyperparameters["group_size"]
    device = memory["device"]
    passed = max(row, plan.micro_batch_tokens(memory["num_parameters"], device))
    usual = MAX_CACHE_BYTES[device] // memory["cache_token_bytes"]
    # A job that an earlier release validated has no word for the copies.
    copies = memory["sums"] + memory.get("copies", memory["sums"])
    room = int(free_bytes * SHARE) - memory["adapter"] - copies
    # A CPU's allocator keeps what sampling and training use apart; a pass takes half at most.
    passes = room if device == "cuda" else room // 2
    while passed > row and pass_bytes(memory, passed) > passes:
        passed = max(row, passed // 2)
    if device == "cpu":
        room -= pass_bytes(memory, passed)
    # Each row has logits beside its keys and values; what draws a chunk of them comes once.
    logits = memory["vocab_size"] * ROW_LOGIT_BYTES
    room -= draw_bytes(memory, num_rows) - num_rows * logits
    row_bytes = row * memory["cache_token_bytes"] + logits
    cached = min(room * row // row_bytes, max(usual, num_rows * row))
    return {"micro_batch_tokens": passed, "cache_tokens": max(row, cached)}
