"""Half of the work at a time, for a job whose trainer the kernel ended for memory.

A trainer that is killed cannot do a step again in smaller parts by itself, as it does when an
allocation fails. So how much the next one may do at a time is stored with what the first attempt
decided; what it computes is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.models import Json

# Of the memory in which a trainer was killed: what a job may fill that is to fit.
SHARE = 0.8

SIZES = ("micro_batch_tokens", "cache_tokens")

# What of a forecast does not depend on how many tokens there are.
FIXED = ("weights", "adapter", "runtime", "graders", "copies", "sums")


@dataclass(frozen=True)
class Halved:
    """What to store, and what it means for the job."""

    resolved: Json
    sentence: str


def halved(resolved: Json) -> Halved | None:
    """Half of the tokens at a time, in passes and in sampling, and never less than one sequence.

    None where it already was one sequence, or the sizes are not decided yet.
    """
    machine = resolved.get("machine")
    if machine is None:
        return None
    before, row = sizes(resolved), sequence_tokens(resolved)
    smaller = {name: max(row, tokens // 2) for name, tokens in before.items()}
    if all(smaller[name] >= before[name] for name in before):
        return None
    smaller = {name: min(smaller[name], before[name]) for name in before}
    return Halved(
        {**resolved, "machine": {**machine, "most": smaller}},
        f"From now on at most {smaller['micro_batch_tokens']:,} tokens are trained on and "
        f"{smaller['cache_tokens']:,} sampled at a time, half as many; the results are the same.",
    )


def sizes(resolved: Json) -> dict[str, int]:
    """How much a job whose machine is known does at a time; no more than a step has to do."""
    machine, asked = resolved["machine"], resolved["hyperparameters"]
    step = sequence_tokens(resolved) * asked["batch_size"] * asked["group_size"]
    known = {**machine, **machine.get("most", {})}
    # A job that an earlier release began has no bound on what it samples at a time.
    return {name: min(step, known.get(name) or step) for name in SIZES}


def sequence_tokens(resolved: Json) -> int:
    """The longest that a sequence of the job may be."""
    longest: int = resolved["longest_prompt_tokens"]
    completion: int = resolved["hyperparameters"]["max_completion_tokens"]
    return longest + completion


def fitting_tokens(resolved: Json, *, peak_bytes: int) -> int:
    """How long a sequence may be that fits where one of the longest filled `peak_bytes` and died.

    The largest of a half, a quarter, ... by the job's forecast, or as much more as it was wrong
    by; 0 where none of them does.
    """
    forecast = resolved["memory"]["cpu"]
    fixed = sum(forecast.get(name, 0) for name in FIXED)
    token = forecast["training_token_bytes"] + forecast["cache_token_bytes"]
    longest = sequence_tokens(resolved)
    error = max(1.0, peak_bytes / (fixed + longest * token))
    num_tokens = longest // 2
    while num_tokens > 1 and error * (fixed + num_tokens * token) > SHARE * peak_bytes:
        num_tokens //= 2
    return num_tokens if num_tokens > 1 else 0
