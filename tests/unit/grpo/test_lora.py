"""Our LoRA layers are PEFT's own to rounding, wherever they are used."""

from contextlib import nullcontext
from itertools import count
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import nn

from tests.unit.grpo.tiny import disturb, tiny_llama
from worker.grpo.lora import ApartLinear, SummedLinear, fixed_weights
from worker.grpo.policy import LoraSettings, Policy

IDS = torch.arange(2, 12).reshape(2, 5)


def policy_in(dtype: torch.dtype) -> Policy:
    policy = Policy(tiny_llama().to(dtype), LoraSettings(rank=4, alpha=8), seed=0)
    disturb(policy, 0.05)
    return policy


def loss_and_gradients(policy: Policy) -> list[torch.Tensor]:
    loss = policy.model(input_ids=IDS, use_cache=False).logits.square().mean()
    return [loss.detach(), *torch.autograd.grad(loss, list(policy.trainable.values()))]


KINDS = {torch.float32: SummedLinear, torch.bfloat16: ApartLinear}


@pytest.fixture(params=KINDS, ids=str)
def ours_and_pefts(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Policy, Policy]:
    """The same policy twice, once with PEFT's own layers."""
    ours = policy_in(request.param)
    monkeypatch.setattr("worker.grpo.policy.linear_class", lambda base: None)
    pefts = policy_in(request.param)
    for policy, expected in ((ours, KINDS[request.param]), (pefts, lora.Linear)):
        kinds = {type(m) for m in policy.model.modules() if isinstance(m, lora.Linear)}
        assert kinds == {expected}
    assert list(ours.trainable) == list(pefts.trainable)
    return ours, pefts


@pytest.mark.parametrize("is_fixed", [True, False])
def test_forward_and_gradients_are_pefts(
    ours_and_pefts: tuple[Policy, Policy], is_fixed: bool
) -> None:
    """In bf16, where rounding is large, they are as near to those of fp32 as PEFT's are."""
    ours, pefts = ours_and_pefts
    exact = Policy(tiny_llama().to(ours.dtype).float(), LoraSettings(rank=4, alpha=8), seed=0)
    disturb(exact, 0.05)
    with ours.unmoved() if is_fixed else nullcontext():
        found = loss_and_gradients(ours)
    for our, their, right in zip(
        found, loss_and_gradients(pefts), loss_and_gradients(exact), strict=True
    ):
        assert our.dtype == their.dtype
        rounding = 1e-5 * right.norm() + 2 * (their - right).norm()
        assert (our - right).norm() <= rounding


def test_bf16_loses_no_small_change_of_the_adapter() -> None:
    """Changes of a few thousandths of B reach the outputs, as they would not through a sum."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False).bfloat16()
    peft = ApartLinear(layer, "default", config=LoraConfig(r=4, lora_alpha=8), r=4, lora_alpha=8)
    a, b = peft.lora_A["default"].weight, peft.lora_B["default"].weight
    change = torch.randn_like(b) * 1e-3
    with torch.no_grad():
        b.normal_(std=0.3)
        before = peft(torch.eye(64).bfloat16()).float()
        b += change
        moved = peft(torch.eye(64).bfloat16()).float() - before
    expected = (2 * change @ a).T.detach()
    assert (moved * expected).sum() / expected.square().sum() == pytest.approx(1, abs=0.3)


def test_weights_are_fixed_only_while_they_do_not_move() -> None:
    policy = policy_in(torch.float32)
    before = loss_and_gradients(policy)[0]
    with policy.sampling():
        inside = policy.model(input_ids=IDS, use_cache=False).logits
        assert inside.square().mean() == before
        assert not inside.requires_grad
    with policy.unmoved():
        assert loss_and_gradients(policy)[0] == before
    disturb(policy, 0.05)
    assert loss_and_gradients(policy)[0] != before
    with policy.sampling():
        assert policy.model(input_ids=IDS, use_cache=False).logits.square().mean() != before


def test_fixed_weights_are_let_go_on_errors() -> None:
    policy = policy_in(torch.float32)
    with pytest.raises(KeyError), fixed_weights(policy.adapted):
        raise KeyError
    assert all(m._fixed is None for m in policy.model.modules() if isinstance(m, SummedLinear))


def test_weights_that_are_fixed_halfway_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may run out in any layer; what the first ones made must not outlive the attempt."""
    policy = policy_in(torch.float32)
    prepared, calls = SummedLinear.prepared, count(1)

    def failing(*operands: Any) -> tuple[torch.Tensor, ...]:
        if next(calls) == 3:
            raise torch.OutOfMemoryError
        return prepared(*operands)

    monkeypatch.setattr(SummedLinear, "prepared", staticmethod(failing))
    with pytest.raises(torch.OutOfMemoryError), fixed_weights(policy.adapted):
        pass
    assert next(calls) == 4
    assert all(m._fixed is None for m in policy.model.modules() if isinstance(m, SummedLinear))


def test_with_the_adapter_off_sampling_is_the_bases() -> None:
    policy = policy_in(torch.float32)
    expected = tiny_llama()(input_ids=IDS, use_cache=False).logits
    with policy.reference(), policy.sampling():
        assert policy.model(input_ids=IDS, use_cache=False).logits.equal(expected)
