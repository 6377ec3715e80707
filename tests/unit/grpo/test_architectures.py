"""Many architectures, one engine: what was sampled is what is scored, in either layout."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.unit.grpo.tiny import VOCAB, disturb, grader, prompts, tiny_config
from worker.grpo.batch import Sample, collate
from worker.grpo.errors import UnsupportedModel
from worker.grpo.forward import concatenated, score, shared
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.trainer import Trainer
from worker.grpo.types import Rollout

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GQA = {"num_key_value_heads": 2}
WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama-gqa-tied": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES | GQA, tie_word_embeddings=True)
    ),
    "qwen3-gqa": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES | GQA)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ),
    "gemma2-softcap-window": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES | GQA | WINDOW, final_logit_softcapping=2.0)
    ),
    "gemma3-window": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES | GQA | WINDOW)),
    "granite-scaled": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)),
    "qwen3.5-linear": lambda: Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES | GQA | LINEAR)),
}


@pytest.fixture(scope="module", params=MODELS.keys())
def policy(request: pytest.FixtureRequest) -> Policy:
    torch.manual_seed(0)
    policy = Policy(MODELS[request.param](), LoraSettings(rank=4, alpha=8), seed=0)
    disturb(policy, 0.05)
    return policy


def drawn(policy: Policy) -> list[list[Rollout]]:
    """Rollouts of uneven lengths to prompts of uneven lengths."""
    return HfSampler(policy, eos_ids=range(2, 14)).sample(
        prompts(4),
        num_samples=3,
        max_tokens=9,
        temperature=0.9,
        seed=3,
        on_finished=lambda rollout: None,
        interrupt=lambda: None,
    )


def test_sampler_logprobs_equal_teacher_forcing(policy: Policy) -> None:
    rows = drawn(policy)
    assert len({len(r.completion_ids) for row in rows for r in row}) > 2
    for prompt, row in zip(prompts(4), rows, strict=True):
        for rollout in row:
            ids = torch.tensor([[*prompt.ids, *rollout.completion_ids]])
            with torch.no_grad():
                logits = policy.model(input_ids=ids, use_cache=False).logits[0].float() / 0.9
            every = logits[len(prompt.ids) - 1 : -1].log_softmax(-1)
            expected = every[range(len(rollout.completion_ids)), rollout.completion_ids]
            found = torch.tensor(rollout.sampler_logprobs)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_trainer_logprobs_equal_the_samplers_in_both_layouts(policy: Policy) -> None:
    samples = [
        Sample(i, prompt, rollout, 1.0, 1.0)
        for i, (prompt, row) in enumerate(zip(prompts(4), drawn(policy), strict=True))
        for rollout in row
    ]
    layouts = [concatenated, shared] if policy.shares_prompts else [concatenated]
    gradients = []
    for layout in layouts:
        batch = collate(samples, policy.device)
        policy.shares_prompts = layout is shared
        logprobs_BT, _ = score(policy, batch, 0.9)
        difference_BT = (logprobs_BT - batch.sampler_logprobs_BT).detach()
        assert difference_BT[batch.completion_mask_BT].abs().max() < 1e-5
        parameters = list(policy.trainable.values())
        gradients.append(torch.autograd.grad(logprobs_BT.sum(), parameters))
    for one, other in zip(*gradients, strict=True) if len(gradients) == 2 else []:
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()


def test_a_jobs_steps_run(policy: Policy) -> None:
    checksum, fingerprint = policy.base_checksum(), policy.adapter_fingerprint()
    trainer = Trainer(
        policy,
        HfSampler(policy, eos_ids=[1]),
        tiny_config(total_steps=2, group_size=4, max_completion_tokens=5, learning_rate=1e-3),
        prompts(4),
        prompts(2, seed=1),
        grade=grader(lambda prompt, rollout: float(rollout.completion_ids[0] % 7)),
    )
    results = list(trainer.steps())
    assert [result.step for result in results] == [0, 1, 2]
    assert results[1].metrics["sampling/sampling_logp_difference/max"] < 1e-5
    assert policy.base_checksum() == checksum
    assert policy.adapter_fingerprint() != fingerprint


def test_a_head_that_the_engine_does_not_know_is_refused() -> None:
    class Shifted(LlamaForCausalLM):
        def forward(self, *args: object, **kwargs: object) -> object:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * torch.linspace(0, 1, VOCAB)
            return output

    with pytest.raises(UnsupportedModel, match="Shifted changes its logits"):
        Policy(Shifted(LlamaConfig(**SIZES)), LoraSettings(), seed=0)
