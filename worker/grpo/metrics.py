"""A step in numbers, under TRL's names where TRL has one."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from worker.grpo.types import Evaluation, Group
from worker.grpo.update import Update

Metrics = dict[str, float | None]


def rollout_metrics(groups: Sequence[Group]) -> Metrics:
    """Return what the step's completions and rewards were like."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    graded = [one for group in groups for one in group.graded]
    lengths = [len(rollout.completion_ids) for rollout in rollouts]
    rewards = _known(one.reward for one in graded)
    metrics: Metrics = {
        "reward": mean(rewards),
        "reward_std": std(rewards),
        "completions/mean_length": mean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": mean([r.finish_reason == "length" for r in rollouts]),
        "graders/error_ratio": 1 - len(rewards) / len(graded),
        "graders/mean_seconds": mean([one.seconds for one in graded]),
    }
    for name in dict.fromkeys(name for one in graded for name in one.components):
        values = _known(one.components.get(name) for one in graded)
        metrics |= {f"rewards/{name}/mean": mean(values), f"rewards/{name}/std": std(values)}
    return metrics


def group_metrics(
    groups: Sequence[Group], *, lowest: float | None, highest: float | None
) -> Metrics:
    """Return how many groups had signal, and on which side those without it were.

    `lowest` and `highest` are the extremes of the run so far: a dead group at the lowest reward
    is too hard, one at the highest has been learned.
    """
    ranges = [_known(one.reward for one in group.graded) for group in groups]
    dead = [rewards for rewards in ranges if not rewards or min(rewards) == max(rewards)]
    at_min = sum(rewards[:1] == [lowest] for rewards in dead)
    at_max = sum(rewards[:1] == [highest] for rewards in dead) if highest != lowest else 0
    return {
        "frac_reward_zero_std": len(dead) / len(groups),
        "groups/effective": len(groups) - len(dead),
        "groups/dead_all_min": at_min,
        "groups/dead_all_max": at_max,
    }


def update_metrics(updates: Sequence[Update]) -> Metrics:
    """Return the objective's numbers, over all updates of the step; None when none was made."""
    num_tokens = sum(update.sums["num_tokens"] for update in updates)

    def token_mean(name: str) -> float | None:
        if not updates or name not in updates[0].sums:
            return None
        return sum(update.sums[name] for update in updates) / num_tokens

    return {
        "loss": mean([update.loss for update in updates]),
        "grad_norm": mean([update.grad_norm for update in updates]),
        "learning_rate": updates[-1].learning_rate if updates else None,
        "entropy": token_mean("entropy"),
        "kl": token_mean("kl"),
        "sampling/importance_sampling_ratio/mean": token_mean("sampler_ratio"),
        "clip_ratio/low_mean": token_mean("clip_low"),
        "clip_ratio/high_mean": token_mean("clip_high"),
        "clip_ratio/region_mean": token_mean("clip_region"),
    }


def evaluation_metrics(evaluation: Evaluation) -> Metrics:
    """Return an evaluation's numbers, as a row carries them."""
    metrics: Metrics = {
        "eval_reward": evaluation.reward,
        "eval_reward_std": std(_known(evaluation.rewards)),
        "eval_completions/mean_length": evaluation.mean_length,
        "eval_completions/clipped_ratio": evaluation.clipped_ratio,
    }
    for name in dict.fromkeys(name for one in evaluation.graded for name in one.components):
        values = _known(one.components.get(name) for one in evaluation.graded)
        metrics[f"eval_rewards/{name}/mean"] = mean(values)
    return metrics


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None of nothing."""
    return fmean(values) if values else None


def std(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, or None of fewer than two."""
    if len(values) < 2:
        return None
    centre = fmean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
