"""Many architectures, one engine: what was sampled is what is scored, in either layout."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from tests.tiny_models import FAMILIES, GQA, families, sizes
from tests.unit.grpo.tiny import VOCAB, disturb, grader, prompts, tiny_config
from worker.grpo.batch import Layout, Sample, collate
from worker.grpo.errors import InvalidConfig, UnsupportedModel
from worker.grpo.forward import score
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.trainer import Trainer
from worker.grpo.types import Rollout

SIZES = sizes(VOCAB)
WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
BOUND = 18  # The longest of the prompts below with its completion has 17 tokens.
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": BOUND,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
BY_LENGTH: dict[str, Callable[[], PreTrainedModel]] = {
    "llama-longrope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES | GQA, rope_parameters=LONG)),
    "llama-dynamic": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES | GQA | {"max_position_embeddings": BOUND}, rope_parameters=DYNAMIC)
    ),
    "phi3-longrope": lambda: Phi3ForCausalLM(
        Phi3Config(
            **SIZES | GQA, original_max_position_embeddings=BOUND, rope_parameters=dict(LONG)
        )
    ),
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    **{
        name: families(VOCAB, is_tied=is_tied)[family]
        for name, (family, is_tied) in FAMILIES.items()
    },
    "gemma2-softcap-window": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES | GQA | WINDOW, final_logit_softcapping=2.0)
    ),
    "gemma3-window": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES | GQA | WINDOW | {"sliding_window": 6})
    ),
    "granite-scaled": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)),
    "qwen3.5-linear": lambda: Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES | GQA | LINEAR)),
    **BY_LENGTH,
}


@pytest.fixture(scope="module", params=MODELS.keys())
def policy(request: pytest.FixtureRequest) -> Policy:
    torch.manual_seed(0)
    base = MODELS[request.param]()
    is_tied = base.get_output_embeddings().weight is base.get_input_embeddings().weight
    if request.param.endswith("tied"):
        assert is_tied == (not request.param.endswith("untied"))
    policy = Policy(base, LoraSettings(rank=4, alpha=8), seed=0)
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


def test_every_layout_gives_the_samplers_logprobs_and_the_same_gradient(policy: Policy) -> None:
    samples = [
        Sample(i, prompt, rollout, 1.0, 1.0)
        for i, (prompt, row) in enumerate(zip(prompts(4), drawn(policy), strict=True))
        for rollout in row
    ]
    layouts = [Layout.WHOLE, Layout.SHARED, Layout.ROW]
    gradients = []
    for layout in layouts[: layouts.index(policy.layout(4)) + 1]:
        batch = collate(samples, policy.device, layout)
        logprobs_BT, _ = score(policy, batch, 0.9)
        difference_BT = (logprobs_BT - batch.sampler_logprobs_BT).detach()
        if layout is Layout.ROW and policy.window < 13:
            # A row's attention has no window: `layout` gives sequences that need one another.
            assert difference_BT.abs().max() > 1e-3
            assert policy.layout(7) is Layout.SHARED
            continue
        assert difference_BT[batch.completion_mask_BT].abs().max() < 1e-5
        parameters = list(policy.trainable.values())
        weights_BT = torch.arange(logprobs_BT.numel()).reshape(logprobs_BT.shape) % 5 - 1.7
        gradients.append(torch.autograd.grad((logprobs_BT * weights_BT).sum(), parameters))
    for other in gradients[1:]:
        for one, same in zip(gradients[0], other, strict=True):
            assert (one - same).abs().max() <= 1e-5 * one.abs().max()


def test_the_usual_families_are_computed_without_padding(policy: Policy) -> None:
    family = type(policy.base).__name__
    has_row = policy.layout(4) is Layout.ROW
    assert has_row == (family not in ("Qwen3_5ForCausalLM", "Gemma2ForCausalLM")), family


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


@pytest.mark.parametrize("name", BY_LENGTH)
def test_a_rotation_that_changes_with_the_length_is_used_below_that_length(name: str) -> None:
    policy = Policy(BY_LENGTH[name](), LoraSettings(rank=4, alpha=8), seed=0)
    [asked] = prompts(1, length=BOUND - 5)
    positions = torch.arange(BOUND + 1)[None]
    rotation = policy.decoder.rotary_emb
    hidden = torch.zeros(1, 1, 1)
    # The number is exact: one token more, and all tokens before it are turned otherwise.
    within = rotation(hidden, positions[:, :BOUND])[1][:, :5]
    torch.testing.assert_close(within, rotation(hidden, positions[:, :5])[1], rtol=0, atol=0)
    assert not within.equal(rotation(hidden, positions)[1][:, :5])

    def draw(max_tokens: int) -> list[list[Rollout]]:
        return HfSampler(policy, eos_ids=[]).sample(
            [asked],
            num_samples=2,
            max_tokens=max_tokens,
            temperature=1.0,
            seed=0,
            on_finished=lambda rollout: None,
            interrupt=lambda: None,
        )

    assert len(draw(5)[0][0].completion_ids) == 5
    refusal = f"longer than the {BOUND} tokens .* 5 tokens of completion would fit"
    with pytest.raises(InvalidConfig, match=refusal):
        draw(6)
    config = tiny_config(max_completion_tokens=6)
    grade = grader(lambda prompt, rollout: 1.0)
    with pytest.raises(InvalidConfig, match=refusal):
        Trainer(policy, HfSampler(policy, eos_ids=[]), config, prompts(1), [asked], grade=grade)


@pytest.mark.parametrize("name", BY_LENGTH)
def test_a_score_does_not_depend_on_the_rows_beside_it(name: str) -> None:
    torch.manual_seed(0)
    policy = Policy(BY_LENGTH[name](), LoraSettings(rank=4, alpha=8), seed=0)
    disturb(policy, 0.05)
    samples = [
        Sample(i, prompt, row[0], 1.0, 1.0)
        for i, (prompt, row) in enumerate(zip(prompts(4), drawn(policy), strict=True))
    ]
    for layout in (Layout.WHOLE, Layout.SHARED, policy.layout(17)):
        whole = collate(samples, policy.device, layout)
        together = score(policy, whole, 0.9)[0][whole.completion_mask_BT]
        parts = [collate([sample], policy.device, layout) for sample in samples]
        alone = [score(policy, one, 0.9)[0][one.completion_mask_BT] for one in parts]
        torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
