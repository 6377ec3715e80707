"""A step in numbers, under TRL's names where TRL has one."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from worker.grpo.collect import Collected
from worker.grpo.lift import Lift
from worker.grpo.overlong import COMPONENT
from worker.grpo.pass_at_k import pass_at_k
from worker.grpo.types import Evaluation, Graded, Group
from worker.grpo.update import Update

Metrics = dict[str, float | None]


def rollout_metrics(groups: Sequence[Group]) -> Metrics:
    """Return what the completions and rewards were like that the step was trained on."""
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
    }
    for name in dict.fromkeys(name for one in graded for name in one.components):
        values = _known(one.components.get(name) for one in graded)
        metrics |= {f"rewards/{name}/mean": mean(values), f"rewards/{name}/std": std(values)}
    return metrics


def grading_metrics(drawn: Sequence[Group]) -> Metrics:
    """Return how the graders did on everything that was drawn, a refill's losers included."""
    graded = [one for group in drawn for one in group.graded]
    return {
        "graders/error_ratio": mean([one.is_failed for one in graded]),
        "graders/mean_seconds": mean([one.seconds for one in graded]),
    }


DEAD_SIDES = ("all_zero", "all_one", "other", "ungraded")


def group_metrics(collected: Collected, *, batch_size: int) -> Metrics:
    """Return how many groups had signal, and on which side those without it were.

    All that were drawn count, also those that a refill replaced. A dead group of zeros (or less)
    is too hard, one of ones (or more) has been learned; in an ungraded one every grade failed.
    """
    drawn = zip(collected.drawn, collected.has_signal, strict=True)
    sides = [dead_side(group.graded) for group, is_live in drawn if not is_live]
    return {
        "frac_reward_zero_std": len(sides) / len(collected.drawn),
        "groups/effective": min(sum(collected.has_signal), batch_size),
        **{f"groups/dead_{side}": sides.count(side) for side in DEAD_SIDES},
        "groups/refill_ratio": len(collected.drawn) / batch_size,
    }


def dead_side(graded: Sequence[Graded]) -> str:
    """Return which of DEAD_SIDES a group without signal is on, by what its grader gave.

    The penalty of answers near the token limit is no part of that.
    """
    rewards = [
        one.reward - (one.components.get(COMPONENT) or 0.0)
        for one in graded
        if one.reward is not None
    ]
    if all(one.is_failed for one in graded):
        return "ungraded"
    if all(reward <= 0 for reward in rewards):
        return "all_zero"
    return "all_one" if all(reward >= 1 for reward in rewards) else "other"


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


def evaluation_metrics(evaluation: Evaluation, *, pass_threshold: float) -> Metrics:
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
    metrics |= _lift_metrics("eval_lift", evaluation.lift)
    sampled = [one for answers in evaluation.sampled for one in answers]
    for name, total in added_up([*evaluation.graded, *sampled]).items():
        metrics[f"eval_{name}"] = total
    if evaluation.sampled_rewards:
        metrics |= _pass_metrics(evaluation, pass_threshold)
    return metrics


def _pass_metrics(evaluation: Evaluation, threshold: float) -> Metrics:
    """Return what k sampled answers a prompt are worth, one by one and together."""
    k = len(evaluation.sampled_rewards[0])
    singles = [pass_at_k(row, k=1, threshold=threshold) for row in evaluation.sampled_rewards]
    bests = [
        None if None in row else max(_known(row), default=None)
        for row in evaluation.sampled_rewards
    ]
    return {
        "eval_pass@1": mean(_known(singles)),
        f"eval_pass@{k}": mean(_known(evaluation.passes)),
        f"eval_best@{k}": mean(_known(bests)),
        **_lift_metrics(f"eval_pass@{k}_lift", evaluation.pass_lift),
    }


def _lift_metrics(name: str, lift: Lift | None) -> Metrics:
    if lift is None:
        return {}
    return {f"{name}/mean": lift.mean, f"{name}/low": lift.low, f"{name}/high": lift.high}


def added_up(graded: Iterable[Graded]) -> dict[str, float]:
    """Return the grades' counts, summed by name."""
    total: dict[str, float] = {}
    for one in graded:
        for name, number in one.counts.items():
            total[name] = total.get(name, 0) + number
    return total


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
