"""The summed LoRA layer is PEFT's own layer to rounding, wherever it is used."""

import pytest
import torch
from peft.tuners import lora

from tests.unit.grpo.tiny import disturb, tiny_llama
from worker.grpo.lora import SummedLinear, fixed_sums, suits
from worker.grpo.policy import LoraSettings, Policy

IDS = torch.arange(2, 12).reshape(2, 5)


def policy_in(dtype: torch.dtype) -> Policy:
    policy = Policy(tiny_llama().to(dtype), LoraSettings(rank=4, alpha=8), seed=0)
    disturb(policy, 0.05)
    return policy


def loss_and_gradients(policy: Policy) -> list[torch.Tensor]:
    loss = policy.model(input_ids=IDS, use_cache=False).logits.square().mean()
    return [loss.detach(), *torch.autograd.grad(loss, list(policy.trainable.values()))]


def test_forward_and_gradients_are_pefts(monkeypatch: pytest.MonkeyPatch) -> None:
    summed = policy_in(torch.float32)
    monkeypatch.setattr("worker.grpo.policy.suits", lambda base: False)
    plain = policy_in(torch.float32)
    for policy, kind in ((summed, SummedLinear), (plain, lora.Linear)):
        kinds = {type(m) for m in policy.model.modules() if isinstance(m, lora.Linear)}
        assert kinds == {kind}
    assert list(summed.trainable) == list(plain.trainable)
    for ours, theirs in zip(loss_and_gradients(summed), loss_and_gradients(plain), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_sums_are_fixed_only_while_sampling() -> None:
    policy = policy_in(torch.float32)
    before = loss_and_gradients(policy)[0]
    with policy.sampling():
        inside = policy.model(input_ids=IDS, use_cache=False).logits
        assert inside.square().mean() == before
        assert not inside.requires_grad
    disturb(policy, 0.05)
    assert loss_and_gradients(policy)[0] != before
    with policy.sampling():
        assert policy.model(input_ids=IDS, use_cache=False).logits.square().mean() != before


def test_sums_are_let_go_when_sampling_fails() -> None:
    policy = policy_in(torch.float32)
    with pytest.raises(KeyError), fixed_sums(policy.model):
        raise KeyError
    assert all(m._fixed_sum is None for m in policy.model.modules() if isinstance(m, SummedLinear))


def test_with_the_adapter_off_sampling_is_the_bases() -> None:
    policy = policy_in(torch.float32)
    expected = tiny_llama()(input_ids=IDS, use_cache=False).logits
    with policy.reference(), policy.sampling():
        assert policy.model(input_ids=IDS, use_cache=False).logits.equal(expected)


def test_bf16_keeps_pefts_layers() -> None:
    assert not suits(tiny_llama().bfloat16())
    policy = policy_in(torch.bfloat16)
    assert not any(isinstance(m, SummedLinear) for m in policy.model.modules())
