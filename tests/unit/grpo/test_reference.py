"""The engine in float64 against GRPO written out token by token, to 1e-10.

The reference knows nothing of padding, micro-batches, shared prompts or chunked heads: each
rollout goes through the whole model alone, each token's term is added up in a loop. The engine is
run in every split of the same work.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.grpo.tiny import EOS, disturb, drawn_elsewhere, tiny_config
from tests.unit.grpo.written_out import (
    T,
    drawn_groups,
    float64_policy,
    reference_loss,
    rollouts,
    sequence_scores,
)
from worker.grpo import logprobs, update
from worker.grpo.batch import Layout, MicroBatch, collate
from worker.grpo.config import GrpoConfig
from worker.grpo.policy import Policy
from worker.grpo.types import Group
from worker.grpo.update import Updater

LOSS_TYPES = ("grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return float64_policy()


@pytest.fixture(scope="module")
def groups(policy: Policy) -> list[Group]:
    return drawn_groups(policy)


CASES: dict[str, dict[str, Any]] = {
    **{
        f"{loss_type}-{level}": {"loss_type": loss_type, "importance_level": level}
        for loss_type in LOSS_TYPES
        for level in ("token", "sequence")
    },
    **{
        f"{estimator}-{is_corrected}": {
            "kl_coef": 0.1,
            "kl_estimator": estimator,
            "kl_ratio_correction": is_corrected,
            "loss_type": loss_type,
        }
        for loss_type, estimator in (("grpo", "k1"), ("dapo", "k2"), ("dr_grpo", "k3"))
        for is_corrected in (True, False)
    },
    **{
        f"sampler-{level}-{action}": {
            "sampler_correction": f"{level}_{action}",
            "sampler_ratio_min": 1 / bound,
            "sampler_ratio_max": bound,
            "loss_type": loss_type,
            "kl_coef": 0.1,
        }
        for level, bound in (("token", 1.1), ("sequence", 1.3))
        for action, loss_type in (("truncate", "grpo"), ("mask", "cispo"))
    },
    "delta-entropy-truncated": {"delta": 1.05, "entropy_coef": 0.05, "mask_truncated": True},
}
SPLITS = {
    "whole": {"micro_batch_tokens": 10_000},
    "split": {"micro_batch_tokens": 40},
    "one-by-one": {"micro_batch_tokens": 1},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_equal_the_reference(
    policy: Policy, groups: list[Group], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        **{"max_completion_tokens": T, "temperature": 0.8, "updates_per_rollout": 2}
        | {"cispo_max_ratio": 1.05}
        | changes
    )
    if config.sampler_correction != "none":
        groups = [drawn_elsewhere(group) for group in groups]
    before = {name: p.detach().clone() for name, p in policy.trainable.items()}
    old = {id(r): sequence_scores(policy, g.prompt, r)[0].detach() for g, r in rollouts(groups)}
    updaters = [Updater(policy, replaced(config, **split)) for split in SPLITS.values()]
    works = [updater.prepare(groups) for updater in updaters]
    constants = [
        updater.constants(work, interrupt=lambda: None)
        for updater, work in zip(updaters, works, strict=True)
    ]
    disturb(policy, 0.01)

    scores = {id(r): sequence_scores(policy, g.prompt, r) for g, r in rollouts(groups)}
    with policy.reference(), torch.no_grad():
        ref = {id(r): sequence_scores(policy, g.prompt, r)[0] for g, r in rollouts(groups)}
    expected = reference_loss(groups, scores, old, ref, config)
    names, parameters = zip(*policy.trainable.items(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(expected, parameters), strict=True))
    # A head that must go in chunks, as one of 150,000 tokens would.
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 5 * policy.vocab_size)
    sizes = set()
    for updater, work, fixed in zip(updaters, works, constants, strict=True):
        sizes.add(len(work.batches))
        totals = updater.backward(work, fixed, interrupt=lambda: None, progress=lambda: None)
        assert totals["loss"] == pytest.approx(expected.item(), abs=1e-10)
        for name, parameter in policy.trainable.items():
            assert (parameter.grad - gradients[name]).abs().max() < 1e-10, name
    assert len(sizes) == len(SPLITS)

    with torch.no_grad():
        for name, parameter in policy.trainable.items():
            parameter.copy_(before[name])


def gradients_of(policy: Policy, groups: list[Group], config: GrpoConfig) -> dict[str, Tensor]:
    updater = Updater(policy, config)
    work = updater.prepare(groups)
    constants = updater.constants(work, interrupt=lambda: None)
    updater.backward(work, constants, interrupt=lambda: None, progress=lambda: None)
    return {name: p.grad.clone() for name, p in policy.trainable.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert any(gradient.abs().max() > 1e-4 for gradient in one.values())
    for name, gradient in one.items():
        assert (gradient - other[name]).abs().max() < 1e-12, name


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_order_of_groups_and_siblings_does_not_matter(
    policy: Policy, groups: list[Group], loss_type: str
) -> None:
    config = tiny_config(max_completion_tokens=T, loss_type=loss_type, kl_coef=0.1)
    turned = [
        replace(group, rollouts=group.rollouts[::-1], advantages=group.advantages[::-1])
        for group in groups[::-1]
    ]
    assert_same(gradients_of(policy, groups, config), gradients_of(policy, turned, config))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("layout", [Layout.SHARED, Layout.WHOLE])
def test_padding_does_not_matter(
    policy: Policy,
    groups: list[Group],
    loss_type: str,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None, or five columns more on either side, filled with tokens that mean something."""
    config = tiny_config(max_completion_tokens=T, loss_type=loss_type, kl_coef=0.1)
    assert policy.layout(T) is Layout.ROW
    expected = gradients_of(policy, groups, config)
    monkeypatch.setattr(policy, "layout", lambda longest: layout)
    monkeypatch.setattr(update, "collate", lambda *args: padded(collate(*args)))
    assert_same(expected, gradients_of(policy, groups, config))


def padded(batch: MicroBatch) -> MicroBatch:
    def wider(tensor: Tensor, *, left: int = 0, right: int = 0, value: float = 0) -> Tensor:
        return torch.nn.functional.pad(tensor, (left, right), value=value)

    return replace(
        batch,
        prompt_ids_PL=wider(batch.prompt_ids_PL, left=5, value=EOS),
        prompt_mask_PL=wider(batch.prompt_mask_PL, left=5),
        completion_ids_BT=wider(batch.completion_ids_BT, right=5, value=EOS),
        completion_mask_BT=wider(batch.completion_mask_BT, right=5),
        loss_mask_BT=wider(batch.loss_mask_BT, right=5),
        sampler_logprobs_BT=wider(batch.sampler_logprobs_BT, right=5, value=-7),
    )


def replaced(config: GrpoConfig, **changes: Any) -> GrpoConfig:
    return tiny_config(**{f: getattr(config, f) for f in config.__slots__} | changes)
