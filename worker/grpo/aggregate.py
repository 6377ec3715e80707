"""From graded groups to advantages: through the reward, or through its components one by one."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from worker.grpo.advantage import advantages, gdpo_advantages, has_signal, normalized_sum
from worker.grpo.config import GrpoConfig
from worker.grpo.overlong import COMPONENT
from worker.grpo.types import Graded, Group


def with_advantages(groups: Sequence[Group], config: GrpoConfig) -> list[Group]:
    """Return the groups, each with the advantages of its rollouts."""
    rows = group_advantages(groups, config)
    return [replace(group, advantages=row) for group, row in zip(groups, rows, strict=True)]


def group_advantages(groups: Sequence[Group], config: GrpoConfig) -> list[list[float]]:
    """Return what each rollout's log-probs are weighed with, [P][G]."""
    if config.reward_aggregation == "normalize_then_sum":
        return gdpo_advantages(*_components_PGK(groups, config)).tolist()
    return advantages(_rewards_PG(groups), config.advantage_scale).tolist()


def groups_with_signal(groups: Sequence[Group], config: GrpoConfig) -> list[bool]:
    """Return which groups have a rollout that is better than another."""
    if config.reward_aggregation == "normalize_then_sum":
        return has_signal(normalized_sum(*_components_PGK(groups, config))).tolist()
    return has_signal(_rewards_PG(groups)).tolist()


def weighted_names(config: GrpoConfig) -> dict[str, float]:
    """Return what each component weighs in a reward that is their weighted sum."""
    weights = dict(config.component_weights)
    if config.overlong_buffer_tokens:
        weights[COMPONENT] = 1.0
    return weights


def _rewards_PG(groups: Sequence[Group]) -> Tensor:
    """Return [P, G] rewards, NaN where a grader failed."""
    return torch.tensor(
        [[_number(g.reward) for g in group.graded] for group in groups], dtype=torch.float64
    )


def _components_PGK(groups: Sequence[Group], config: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Return [P, G, K] weighted components, NaN where the reward is none, and [K] weights."""
    weights = weighted_names(config)
    names = list(weights)

    def numbers(graded: Graded) -> list[float]:
        if graded.reward is None:
            return [math.nan] * len(names)
        return [_number(graded.components.get(name)) for name in names]

    rows = [[numbers(graded) for graded in group.graded] for group in groups]
    weights_K = torch.tensor(list(weights.values()), dtype=torch.float64)
    return torch.tensor(rows, dtype=torch.float64), weights_K


def _number(value: float | None) -> float:
    return math.nan if value is None else value
