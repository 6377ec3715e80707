"""What each component of a reward did in a step: its part of the advantage, errors and latency."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from worker.grpo.aggregate import weighted_names
from worker.grpo.config import GrpoConfig
from worker.grpo.metrics import Metrics, added_up
from worker.grpo.types import Group


def component_metrics(
    groups: Sequence[Group], drawn: Sequence[Group], config: GrpoConfig
) -> Metrics:
    """Return `rewards/{name}/...` beyond mean and std, and what grades asked to be added up.

    Shares are over the groups that are trained on; everything else over all that were drawn.
    """
    graded = [one for group in drawn for one in group.graded]
    metrics: Metrics = {**added_up(graded)}
    for name, share in advantage_shares(groups, config).items():
        metrics[f"rewards/{name}/advantage_share"] = share
    for name in dict.fromkeys(name for one in graded for name in one.part_seconds):
        seconds = [one.part_seconds[name] for one in graded if name in one.part_seconds]
        failed = [one.part_errors[name] for one in graded if one.part_errors.get(name)]
        metrics |= {
            f"rewards/{name}/seconds_p50": percentile(seconds, 50),
            f"rewards/{name}/seconds_p95": percentile(seconds, 95),
            f"rewards/{name}/error_ratio": len(failed) / len(graded),
        }
        kinds = Counter(kind for errors in failed for kind in errors)
        for kind, number in kinds.items():
            metrics[f"rewards/{name}/errors/{kind}"] = number / len(graded)
    return metrics


def advantage_shares(groups: Sequence[Group], config: GrpoConfig) -> dict[str, float | None]:
    """Return each component's part of the advantages' variance; None of a step without any.

        share_k = sum_i c_ik A_i / sum_i A_i^2,    c_ik = w_k (r_ik - mean(r_k)) s

    with A the advantages, means over the group, and s what the group's rewards were scaled by. Of
    a weighted sum the shares add up to 1; one below 0 works against the rest. Where the reward is
    no weighted sum, w is its least squares fit, and the shares add up to what the fit explains.
    """
    names = list(
        dict.fromkeys(n for group in groups for one in group.graded for n in one.components)
    )
    columns = [_centred(group, names) for group in groups]
    advantages = torch.cat([one.advantages for one in columns])
    total = advantages.square().sum()
    if total == 0:
        return dict.fromkeys(names)
    if config.reward_aggregation == "normalize_then_sum":
        parts = torch.cat([one.parts for one in columns])
        fitted = _least_squares(parts, advantages)
    else:
        weights = weighted_names(config) if config.component_weights else {}
        fitted = torch.tensor([weights.get(name, 0.0) for name in names], dtype=torch.float64)
        if not weights:
            fitted = _least_squares(
                torch.cat([one.parts for one in columns]),
                torch.cat([one.rewards for one in columns]),
            )
        # What a group's rewards were scaled by is one number, which they give away.
        parts = torch.cat([one.parts * _ratio(one.advantages, one.rewards) for one in columns])
    shares = (parts * fitted * advantages[:, None]).sum(dim=0) / total
    return dict(zip(names, shares.tolist(), strict=True))


class _Centred(NamedTuple):
    """A group's rollouts that have a reward: [N, K] components and [N] rewards less their means."""

    parts: Tensor
    rewards: Tensor
    advantages: Tensor


def _centred(group: Group, names: Sequence[str]) -> _Centred:
    known = [i for i, one in enumerate(group.graded) if one.reward is not None]
    rows = [[_number(group.graded[i].components.get(name)) for name in names] for i in known]
    parts = torch.tensor(rows, dtype=torch.float64).reshape(len(known), len(names))
    rewards = torch.tensor([_number(group.graded[i].reward) for i in known], dtype=torch.float64)
    advantages = torch.tensor([group.advantages[i] for i in known], dtype=torch.float64)
    if known:
        parts, rewards = parts - parts.mean(dim=0, keepdim=True), rewards - rewards.mean()
    return _Centred(parts, rewards, advantages)


def _least_squares(parts: Tensor, values: Tensor) -> Tensor:
    return torch.linalg.lstsq(parts, values[:, None], driver="gelsd").solution[:, 0]


def _ratio(numerator: Tensor, denominator: Tensor) -> float:
    square = float(denominator.square().sum())
    return float((numerator * denominator).sum()) / square if square else 0.0


def _number(value: float | None) -> float:
    # A component that failed and that the formula does not use moved nothing.
    return 0.0 if value is None else value


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the smallest value that at least `percent` of the values do not exceed."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
