"""Log-probs a chunk at a time: their gradient is that of the whole, whatever part is trained."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
)

from tests.tiny_models import families, sizes
from tests.unit.grpo.tiny import VOCAB, disturb, tiny_llama
from worker.grpo import logprobs
from worker.grpo.logprobs import score_logits, token_logprobs
from worker.grpo.policy import LoraSettings, Policy

IDS = torch.arange(2, 14)


@pytest.mark.parametrize("num_rows", [1, 5, 100])
@pytest.mark.parametrize("layers", [["q_proj"], ["q_proj", "lm_head"]], ids=" ".join)
@pytest.mark.parametrize("is_entropy_trained", [True, False])
def test_chunks_change_nothing(
    num_rows: int, layers: list[str], is_entropy_trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(tiny_llama(), LoraSettings(rank=4, alpha=8, target_modules=layers), seed=0)
    assert policy.is_head_trained == ("lm_head" in layers)
    disturb(policy, 0.1)
    targets = IDS.roll(-1)
    logits = policy.model(input_ids=IDS[None], use_cache=False).logits[0]
    expected = score_logits(logits, targets, temperature=0.7, is_entropy_trained=is_entropy_trained)
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", num_rows * VOCAB)
    found = token_logprobs(
        policy.decoder(input_ids=IDS[None], use_cache=False).last_hidden_state[0],
        targets,
        policy.head,
        vocab_size=VOCAB,
        temperature=0.7,
        is_entropy_trained=is_entropy_trained,
        is_head_trained=policy.is_head_trained,
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert found[1].requires_grad == is_entropy_trained
    for ours, theirs in zip(gradients(policy, found), gradients(policy, expected), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def gradients(policy: Policy, scores: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, len(IDS))
    return torch.autograd.grad(
        (scores[0] * weights + scores[1] * weights.square()).sum(), list(policy.trainable.values())
    )


WIDE = sizes(VOCAB) | {"hidden_size": 256}
HEADS: dict[str, Callable[[], PreTrainedModel]] = {
    "untied": families(VOCAB, is_tied=False)["qwen3-gqa"],
    "tied": families(VOCAB, is_tied=True)["llama"],
    "scaled": lambda: GraniteForCausalLM(GraniteConfig(**WIDE, logits_scaling=0.25)),
    "capped": lambda: Gemma2ForCausalLM(Gemma2Config(**WIDE, final_logit_softcapping=30.0)),
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("layers", [["q_proj"], ["q_proj", "lm_head"]], ids=" ".join)
@pytest.mark.parametrize("name", HEADS)
def test_logits_of_a_bf16_model_are_not_rounded(name: str, layers: list[str]) -> None:
    torch.manual_seed(0)
    policy = Policy(
        HEADS[name]().bfloat16(), LoraSettings(rank=4, alpha=8, target_modules=layers), seed=0
    )
    disturb(policy, 0.1)
    with torch.no_grad():
        states = policy.decoder(input_ids=IDS[None], use_cache=False).last_hidden_state[0]
    states = states * 8  # Logits as far from 0 as those of a large model.
    layer = policy.base.get_output_embeddings()
    trained = [p for n, p in policy.trainable.items() if "lm_head" in n]

    def exact(hidden: Tensor) -> Tensor:
        weight = getattr(layer, "base_layer", layer).weight.double()
        if trained:
            a, b = (part["default"].weight.double() for part in (layer.lora_A, layer.lora_B))
            weight = weight + 2 * b @ a
        logits = hidden.double() @ weight.T * (4 if name == "scaled" else 1)
        return 30 * torch.tanh(logits / 30) if name == "capped" else logits

    found, expected = (head(states.requires_grad_()) for head in (policy.head, exact))
    assert found.dtype == torch.float32
    assert expected.abs().max() > 8
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    slopes = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    for ours, theirs in zip(
        torch.autograd.grad((found * slopes).sum(), [states, *trained]),
        torch.autograd.grad((expected * slopes).sum(), [states, *trained]),
        strict=True,
    ):
        assert (ours - theirs).abs().max() <= 1e-2 * theirs.abs().max()
