"""The objective against the hand-computed numbers of two short rollouts."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.grpo.tiny import tiny_config
from worker.grpo.denominators import rollout_weights
from worker.grpo.kl import kl_divergence
from worker.grpo.logprobs import score_logits
from worker.grpo.objective import objective
from worker.grpo.ratio import importance_ratio

MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])
LOGPROBS = torch.tensor([[-0.5, -1, -2, -0.1], [-0.3, -0.7, 9, 9]], dtype=torch.float64)
OLD = torch.tensor([[-0.6, -0.7, -2.4, -0.1], [-0.35, -1, -9, -9]], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -1.0])
# Log of what the trainer gives a token over what the sampler gave it.
SAMPLER_LOG_RATIO = torch.tensor([[0.0, 1.0, -1.0, 0.0], [0.2, 0.3, 7, 7]], dtype=torch.float64)


def loss_of(
    logprobs: Tensor = LOGPROBS, ref: Tensor | None = None, **changes: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and sums of the two rollouts."""
    config = tiny_config(**{"clip_eps_high": 0.2} | changes)
    return objective(
        logprobs_BT=logprobs,
        old_logprobs_BT=OLD,
        ref_logprobs_BT=ref,
        sampler_logprobs_BT=OLD - SAMPLER_LOG_RATIO,
        entropy_BT=torch.full_like(logprobs, 2.0),
        advantages_B=ADVANTAGES,
        loss_mask_BT=MASK,
        weights_B=rollout_weights(MASK.sum(1), config.loss_type, max_completion_tokens=8),
        num_step_tokens=6,
        config=config,
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss_type": "grpo"}, 0.0945339),
        ({"loss_type": "bnpo"}, -0.2741432),
        ({"loss_type": "dapo"}, -0.2741432),
        ({"loss_type": "dapo", "clip_eps_high": 0.28}, -0.2874765),
        ({"loss_type": "dr_grpo"}, -0.1028037),
        (
            {
                "loss_type": "grpo",
                "importance_level": "sequence",
                "clip_eps_low": 3e-4,
                "clip_eps_high": 4e-4,
            },
            0.0954232,
        ),
        ({"loss_type": "cispo", "cispo_max_ratio": 5.0}, 0.5194618),
        ({"loss_type": "sapo"}, 0.0105051),
    ],
)
def test_golden_numbers(changes: dict[str, Any], expected: float) -> None:
    loss, _ = loss_of(**changes)
    assert float(loss) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("estimator", "is_corrected", "expected"),
    [
        ("k3", False, 0.0321861),
        ("k3", True, 0.0413171),
        ("k1", False, 0.1416667),
        ("k2", False, 0.0352083),
        # log(pi / ref) of the six tokens: .15 -.25 .45 .05, .1 .35; their ratios: 1.1051709
        # .7408182 1.4918247 1, 1.0512711 1.3498588. (.1657756 - .1852046 + .6713211 + .05
        # + .1051271 + .4724506) / 6, and with each log squared and halved instead.
        ("k1", True, 0.2132450),
        ("k2", True, 0.0459694),
    ],
)
def test_golden_kl(estimator: str, is_corrected: bool, expected: float) -> None:
    kl = {"kl_estimator": estimator, "kl_ratio_correction": is_corrected, "kl_coef": 0.5}
    loss, sums = loss_of(ref=OLD - 0.05, **kl)
    assert float(sums["kl"] / sums["num_tokens"]) == pytest.approx(expected, abs=1e-7)
    assert float(loss) == pytest.approx(-0.2741432 + 0.5 * expected, abs=1e-7)


def test_k3_never_is_negative_and_k1_averages_to_it_at_equality() -> None:
    ref = LOGPROBS + torch.randn(LOGPROBS.shape, generator=torch.Generator().manual_seed(0))
    assert (kl_divergence(LOGPROBS, ref, "k3") >= 0).all()
    for estimator in ("k1", "k2", "k3"):
        assert kl_divergence(LOGPROBS, LOGPROBS, estimator).abs().max() == 0


def test_delta_bounds_the_ratio_where_the_advantage_is_negative() -> None:
    # The second rollout's second token has ratio exp(0.3) = 1.35 and advantage -1.
    free, _ = loss_of(loss_type="grpo")
    bound, _ = loss_of(loss_type="grpo", delta=1.3)
    assert float(free - bound) == pytest.approx(
        (torch.tensor(0.3).exp().item() - 1.3) / 4, abs=1e-6
    )


@pytest.mark.parametrize(
    ("correction", "weights"),
    [
        ("none", [1, 1, 1, 1, 1, 1]),
        ("token_truncate", [1, 2, 0.5, 1, 1.2214028, 1.3498588]),
        ("token_mask", [1, 0, 0, 1, 1.2214028, 1.3498588]),
        ("sequence_truncate", [1, 1, 1, 1, 1.6, 1.6]),
        ("sequence_mask", [1, 1, 1, 1, 0, 0]),
    ],
)
def test_the_samplers_probabilities_are_corrected_for(
    correction: str, weights: list[float]
) -> None:
    high = 1.6 if correction.startswith("sequence") else 2.0
    changes = {"sampler_correction": correction, "sampler_ratio_min": 0.5}
    # Each token's plain loss: a ratio or its clip, times minus the advantage.
    plain = [-1.1051709, -0.7408182, -1.2, -1.0, 1.0512711, 1.3498588]
    loss, sums = loss_of(**changes, sampler_ratio_max=high)
    terms = [term * weight for term, weight in zip(plain, weights, strict=True)]
    assert float(loss) == pytest.approx(sum(terms) / 6, abs=1e-7)
    if correction != "none":
        assert float(sums["sampler_ratio"]) == pytest.approx(sum(weights))


def test_entropy_bonus_is_a_mean_over_the_steps_tokens() -> None:
    plain, _ = loss_of()
    bonus, sums = loss_of(entropy_coef=0.1)
    assert float(plain - bonus) == pytest.approx(0.1 * 2.0)
    assert float(sums["entropy"]) == pytest.approx(2.0 * 6)


def test_clip_counts_by_side() -> None:
    _, sums = loss_of()
    # Ratios 1.105 0.741 1.492 1 (A > 0) and 1.051 1.350 (A < 0): one above on the good side.
    counts = {name: int(sums[name]) for name in ("clip_low", "clip_high", "clip_region")}
    assert counts == {"clip_low": 0, "clip_high": 1, "clip_region": 1}


def test_on_policy_the_loss_is_flat_and_its_gradient_is_not() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    config = tiny_config(loss_type="dapo")
    loss, _ = objective(
        logprobs_BT=logprobs,
        old_logprobs_BT=logprobs.detach(),
        ref_logprobs_BT=None,
        sampler_logprobs_BT=logprobs.detach(),
        entropy_BT=torch.zeros_like(logprobs),
        advantages_B=ADVANTAGES,
        loss_mask_BT=MASK,
        weights_B=rollout_weights(MASK.sum(1), "dapo", max_completion_tokens=8),
        num_step_tokens=6,
        config=config,
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-(4 - 2) / 6)
    # The gradient of every token's log-prob is its advantage's share, as in REINFORCE.
    expected = torch.tensor([[-1.0] * 4, [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64) / 6
    torch.testing.assert_close(logprobs.grad, expected)


def test_a_ratio_cannot_overflow() -> None:
    far = torch.full((1, 1), 1e4)
    ratio = importance_ratio(far, -far, torch.ones(1, 1, dtype=torch.bool), "token")
    assert ratio.isfinite().all()
    assert kl_divergence(-far, far, "k3").isfinite().all()


def test_tokens_that_cannot_come_have_no_part_in_the_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf, -3e4]], requires_grad=True)
    ids = torch.tensor([1])
    logprobs, entropy = score_logits(logits, ids, temperature=1.0, is_entropy_trained=True)
    assert logprobs.item() == pytest.approx(-math.log(2))
    assert entropy.item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    assert gradient.isfinite().all()


def test_padding_never_counts() -> None:
    other = LOGPROBS.clone()
    other[~MASK] = torch.tensor(-1e3, dtype=torch.float64)
    for loss_type in ("grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo"):
        for level in ("token", "sequence"):
            changes = {"loss_type": loss_type, "importance_level": level}
            assert float(loss_of(**changes)[0]) == float(loss_of(other, **changes)[0])


def test_a_fully_masked_rollout_weighs_nothing_and_breaks_nothing() -> None:
    counts = torch.tensor([4, 0])
    for loss_type in ("grpo", "dapo", "dr_grpo"):
        weights = rollout_weights(counts, loss_type, max_completion_tokens=8)
        assert weights.isfinite().all()
