"""The forward pass of our own is the Hugging Face modules' to rounding, or it is not used."""

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.tiny_models import GQA, families, sizes
from tests.unit.grpo.tiny import VOCAB, disturb, prompts
from worker.grpo.fused import fits
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.product import Product
from worker.grpo.shared_cache import MIN_SHARED_TOKENS
from worker.grpo.types import Rollout

OWN = sizes(VOCAB) | GQA
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}

FITTING: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**OWN, attention_bias=True, mlp_bias=True)),
    "llama3-rotation": lambda: LlamaForCausalLM(LlamaConfig(**OWN, rope_parameters=LLAMA3)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**OWN)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**OWN)),
}
OTHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma": families(VOCAB, is_tied=True)["gemma"],
    "fp64": lambda: LlamaForCausalLM(LlamaConfig(**OWN)).double(),
    "window": lambda: Qwen2ForCausalLM(Qwen2Config(**OWN, **WINDOW)),
    "rotation-by-length": lambda: LlamaForCausalLM(LlamaConfig(**OWN, rope_parameters=DYNAMIC)),
    "another-activation": lambda: LlamaForCausalLM(LlamaConfig(**OWN | {"hidden_act": "gelu"})),
}


def policy_of(make: Callable[[], PreTrainedModel], dtype: torch.dtype = torch.float32) -> Policy:
    """A policy none of whose parts does nothing: biases, norms and adapter are random."""
    torch.manual_seed(0)
    base = make()
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    if base.dtype == torch.float32:
        base = base.to(dtype)
    policy = Policy(base, LoraSettings(rank=4, alpha=8), seed=0)
    disturb(policy, 0.05)
    return policy


@pytest.fixture(params=[0, 1 << 60], ids=["laid-out", "plain"])
def any_layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large weights are laid out anew and small ones are not; here all are, or none."""
    monkeypatch.setattr("worker.grpo.product.MIN_LAID_OUT", request.param)


def drawn(policy: Policy, *, length: int) -> list[list[Rollout]]:
    """Rollouts of uneven lengths to prompts of uneven lengths."""
    return HfSampler(policy, eos_ids=range(2, 14)).sample(
        prompts(4, length=length),
        num_samples=3,
        max_tokens=9,
        temperature=0.9,
        seed=3,
        on_finished=lambda rollout: None,
        interrupt=lambda: None,
    )


@pytest.mark.parametrize("length", [5, MIN_SHARED_TOKENS + 6])
@pytest.mark.parametrize("family", FITTING)
@pytest.mark.usefixtures("any_layout")
def test_draws_are_those_of_the_modules(
    family: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(FITTING[family])
    assert fits(policy)
    found = list(chain(*drawn(policy, length=length)))
    with policy.reference():
        bases = list(chain(*drawn(policy, length=length)))
    monkeypatch.setattr("worker.grpo.decode.fits", lambda policy: False)
    assert len({len(rollout.completion_ids) for rollout in found}) > 2
    for rollout, other in zip(found, chain(*drawn(policy, length=length)), strict=True):
        assert rollout.completion_ids == other.completion_ids
        assert rollout.sampler_logprobs == pytest.approx(other.sampler_logprobs, abs=1e-5)
    with policy.reference():
        expected = list(chain(*drawn(policy, length=length)))
    assert [one.completion_ids for one in bases] == [one.completion_ids for one in expected]
    assert [one.completion_ids for one in bases] != [one.completion_ids for one in found]


@pytest.mark.parametrize("family", OTHERS)
def test_what_it_does_not_compute_it_is_not_used_for(family: str) -> None:
    assert not fits(policy_of(OTHERS[family]))


@pytest.mark.parametrize("length", [5, MIN_SHARED_TOKENS + 6])
@pytest.mark.usefixtures("any_layout")
def test_bf16_logprobs_are_the_trainers_to_its_rounding(length: int) -> None:
    policy = policy_of(FITTING["qwen3"], torch.bfloat16)
    assert fits(policy)
    differences = []
    for prompt, row in zip(prompts(4, length=length), drawn(policy, length=length), strict=True):
        for rollout in row:
            ids = torch.tensor([[*prompt.ids, *rollout.completion_ids]])
            with torch.no_grad():
                logits = policy.model(input_ids=ids, use_cache=False).logits[0].float() / 0.9
            every = logits[len(prompt.ids) - 1 : -1].log_softmax(-1)
            expected = every[range(len(rollout.completion_ids)), rollout.completion_ids]
            differences.append((torch.tensor(rollout.sampler_logprobs) - expected).abs())
    assert torch.cat(differences).mean() < 0.03


@pytest.mark.usefixtures("any_layout")
def test_a_small_adapter_is_not_lost_in_bf16() -> None:
    """Its effect is whole, where in the sum of the weights in bf16 most of it would be lost."""
    torch.manual_seed(0)
    sides = {"hidden_size": 256, "intermediate_size": 192}
    policy = Policy(
        LlamaForCausalLM(LlamaConfig(**OWN | sides)).bfloat16(),
        LoraSettings(rank=4, alpha=8),
        seed=0,
    )
    disturb(policy, 5e-4)
    layer = policy.decoder.layers[0].mlp.gate_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        x, weight, delta = torch.randn(64, 256).bfloat16(), layer.base_layer.weight, 2 * b @ a
        plain, exact = x.float() @ weight.float().T, x.float() @ delta.T
        effect = Product([layer])(x).float() - plain
        lost = x.float() @ (weight.float() + delta).bfloat16().float().T - plain
        share, share_merged = ((e * exact).sum() / exact.square().sum() for e in (effect, lost))
    assert share == pytest.approx(1, abs=0.1)
    assert share_merged < 0.5
