"""Every objective with every importance level, scale and KL, in float64 against GRPO written out.

One state of the policy serves all of them: the derivatives of its tokens' log-probs are taken once,
so that the reference's gradient is a product. Splits, masks and corrections are `test_reference`'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.grpo.tiny import disturb, tiny_config
from tests.unit.grpo.written_out import (
    WEIGHTS,
    T,
    drawn_groups,
    float64_policy,
    reference_loss,
    rollouts,
    sequence_scores,
)
from worker.grpo.aggregate import with_advantages
from worker.grpo.policy import Policy
from worker.grpo.types import Group
from worker.grpo.update import Constants, Updater, Work

LOSS_TYPES = ("grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo")
LEVELS = ("token", "sequence")
GDPO: dict[str, Any] = {
    "reward_aggregation": "normalize_then_sum",
    "component_weights": WEIGHTS,
}
SCALES: dict[str, dict[str, Any]] = {
    **{scale: {"advantage_scale": scale} for scale in ("group", "batch", "none")},
    "gdpo": GDPO,
}
KLS: dict[str, dict[str, Any]] = {
    "no-kl": {},
    **{
        f"{estimator}-{'corrected' if is_corrected else 'plain'}": {
            "kl_coef": 0.1,
            "kl_estimator": estimator,
            "kl_ratio_correction": is_corrected,
        }
        for estimator in ("k1", "k2", "k3")
        for is_corrected in (True, False)
    },
}


@dataclass(frozen=True)
class State:
    """A policy that has moved since its rollouts were drawn, and every number that it gives."""

    policy: Policy
    groups: list[Group]
    old: dict[int, Tensor]
    ref: dict[int, Tensor]
    scores: dict[int, tuple[Tensor, Tensor]]
    """Log-probs, cut off from the policy, and entropies."""
    jacobian: dict[str, Tensor]
    """[tokens, parameter] derivatives of all log-probs, rollout after rollout."""


@pytest.fixture(scope="module")
def state() -> State:
    policy = float64_policy()
    groups = drawn_groups(policy)
    pairs = rollouts(groups)
    with torch.no_grad():
        old = {id(r): sequence_scores(policy, g.prompt, r)[0] for g, r in pairs}
        with policy.reference():
            ref = {id(r): sequence_scores(policy, g.prompt, r)[0] for g, r in pairs}
    disturb(policy, 0.01)
    names, parameters = zip(*policy.trainable.items(), strict=True)
    scores, rows = {}, []
    for group, rollout in pairs:
        new, entropy = sequence_scores(policy, group.prompt, rollout)
        rows += [torch.autograd.grad(one, parameters, retain_graph=True) for one in new]
        scores[id(rollout)] = (new.detach().requires_grad_(), entropy.detach())
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return State(policy, groups, old, ref, scores, dict(zip(names, columns, strict=True)))


CASES = [
    # A minute for all of them: those of the default objective come with every run.
    pytest.param(*case, marks=[] if case[0] == "dapo" else [pytest.mark.slow])
    for case in product(LOSS_TYPES, LEVELS, SCALES, KLS)
]


@pytest.mark.parametrize(("loss_type", "level", "scale", "kl"), CASES)
def test_loss_and_gradient_equal_the_reference(
    state: State, loss_type: str, level: str, scale: str, kl: str
) -> None:
    config = tiny_config(
        **{"max_completion_tokens": T, "temperature": 0.8, "updates_per_rollout": 2},
        **{"cispo_max_ratio": 1.05, "loss_type": loss_type, "importance_level": level},
        **SCALES[scale],
        **KLS[kl],
    )
    groups = with_advantages(state.groups, config)
    leaves = [state.scores[id(rollout)][0] for _, rollout in rollouts(groups)]
    expected = reference_loss(groups, state.scores, state.old, state.ref, config)
    slopes = torch.cat(torch.autograd.grad(expected, leaves))

    updater = Updater(state.policy, config)
    work = updater.prepare(groups)
    totals = updater.backward(
        work, list(constants(state, work)), interrupt=lambda: None, progress=lambda: None
    )
    assert totals["loss"] == pytest.approx(expected.item(), abs=1e-10)
    for name, parameter in state.policy.trainable.items():
        gradient = torch.tensordot(slopes, state.jacobian[name], dims=1)
        assert (parameter.grad - gradient).abs().max() < 1e-10, name
    assert slopes.abs().max() > 1e-4


def constants(state: State, work: Work) -> Iterator[Constants]:
    """What the loss holds fixed, found again by the tokens of each rollout."""
    known = {tuple(r.completion_ids): id(r) for _, r in rollouts(state.groups)}
    for batch in work.batches:
        old, ref = (torch.zeros_like(batch.sampler_logprobs_BT) for _ in range(2))
        for row, mask in enumerate(batch.completion_mask_BT):
            ids = batch.completion_ids_BT[row][mask].tolist()
            old[row, mask] = state.old[known[tuple(ids)]]
            ref[row, mask] = state.ref[known[tuple(ids)]]
        yield Constants(old, ref)


def test_the_rollouts_can_be_told_apart_by_their_tokens(state: State) -> None:
    pairs = rollouts(state.groups)
    assert len({tuple(rollout.completion_ids) for _, rollout in pairs}) == len(pairs)
