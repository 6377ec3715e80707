"""The memory forecast: exact where it counts weights, near the measured peak where it estimates."""

import json
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from jobs.errors import JobFailure
from worker import plan
from worker.forecast import ADAPTER_BYTES, MAX_CACHE_BYTES, Forecast, Shape, draw_bytes, forecast
from worker.grpo.fused import FusedDecoder, fits
from worker.grpo.lora import linear_class
from worker.grpo.policy import LoraSettings, Policy

TINY: dict[str, Any] = {"vocab_size": 64, "num_hidden_layers": 2, "hidden_size": 32}
LLAMA = {**TINY, "intermediate_size": 48, "num_attention_heads": 4}
ASKED: dict[str, Any] = {
    "lora": {"rank": 4, "target_modules": "all-linear"},
    "batch_size": 4,
    "group_size": 4,
    "max_completion_tokens": 16,
}


def shape_of(config: PretrainedConfig, folder: Path) -> Shape:
    config.architectures = None
    config.save_pretrained(folder)
    return Shape(folder)


def forecast_of(shape: Shape, device: str = "cpu", **asked: Any) -> Forecast:
    return forecast(
        shape, {**ASKED, **asked}, longest_prompt_tokens=10, context_length=2048, device=device
    )


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**LLAMA, num_key_value_heads=2),
        Qwen3Config(**LLAMA, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True),
        GPT2Config(vocab_size=64, n_layer=2, n_embd=32, n_head=4),
    ],
    ids=["llama", "qwen3-tied", "gpt2"],
)
@pytest.mark.parametrize("modules", ["all-linear", "attention"])
def test_weights_are_those_of_the_model_and_of_pefts_adapter(
    config: PretrainedConfig, modules: str, tmp_path: Path
) -> None:

    named = ["c_attn"] if config.model_type == "gpt2" else ["q_proj", "v_proj"]
    targets: str | list[str] = "all-linear" if modules == "all-linear" else named
    shape = shape_of(config, tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    policy = Policy(model, LoraSettings(rank=4, target_modules=targets), seed=0)
    num_adapter = sum(weights.numel() for weights in policy.trainable.values())

    found = forecast_of(shape, lora={"rank": 4, "target_modules": targets})

    num_base = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert found.weights == 4 * num_base
    assert found.adapter == ADAPTER_BYTES * num_adapter
    assert forecast_of(shape, device="cuda").weights == 2 * num_base


def test_more_to_do_needs_more(tmp_path: Path) -> None:
    shape = shape_of(LlamaConfig(**LLAMA), tmp_path)
    base = forecast_of(shape)
    assert base.total == base.weights + base.adapter + base.sampling + base.training + base.runtime
    assert forecast_of(shape, group_size=8).sampling > base.sampling
    assert forecast_of(shape, batch_size=8).training > base.training
    assert forecast_of(shape, max_completion_tokens="auto").sampling > base.sampling
    assert forecast_of(shape, lora={"rank": 8, "target_modules": "all-linear"}).adapter == (
        2 * base.adapter
    )
    beside = forecast(
        shape, ASKED, longest_prompt_tokens=10, context_length=2048, device="cpu", grader_bytes=999
    )
    assert (beside.graders, beside.total) == (999, base.total + 999)
    gpu = forecast_of(shape, device="cuda")
    assert gpu.total == gpu.weights + gpu.adapter + gpu.runtime + max(gpu.sampling, gpu.training)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]], ids=["all", "q_proj"])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**LLAMA, num_key_value_heads=2, attention_bias=True, mlp_bias=True),
        Qwen2Config(**LLAMA, num_key_value_heads=2),
        Qwen3Config(**LLAMA, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True),
    ],
    ids=["llama", "qwen2", "qwen3"],
)
def test_sampling_counts_every_product_of_the_fused_decoder(
    config: PretrainedConfig, targets: str | list[str], tmp_path: Path
) -> None:
    lora = {"rank": 4, "target_modules": targets}
    found = forecast_of(shape_of(config, tmp_path), lora=lora)
    policy = Policy(AutoModelForCausalLM.from_config(config), LoraSettings(**lora), seed=0)
    assert fits(policy)
    products = [
        product
        for layer in FusedDecoder(policy).layers
        for product in (layer.qkv, layer.out, layer.gate, layer.up, layer.down)
    ]
    held = [t for product in products for t in (product.weight, product.bias) if t is not None]
    assert found.copies == sum(tensor.numel() * tensor.element_size() for tensor in held)
    cache = 16 * (10 + 16) * found.cache_token_bytes
    assert found.sampling == cache + draw_bytes(asdict(found), 16) + found.copies
    assert forecast_of(shape_of(config, tmp_path), device="cuda").copies == 0


def test_forecast_and_decoder_agree_on_what_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit itself, which the head counts towards and the adapter does not."""
    config = LlamaConfig(**LLAMA, num_key_value_heads=2)
    shape = shape_of(config, tmp_path)
    policy = Policy(AutoModelForCausalLM.from_config(config), LoraSettings(rank=4), seed=0)
    for limit, is_small in ((shape.num_parameters, True), (shape.num_parameters - 1, False)):
        for module in ("worker.grpo.fused", "worker.grpo.lora", "worker.forecast"):
            monkeypatch.setattr(f"{module}.MAX_WEIGHTS", limit)
        assert fits(policy) is is_small
        assert (linear_class(AutoModelForCausalLM.from_config(config)) is not None) is is_small
        found = forecast_of(shape)
        assert (found.copies > 0) is (found.sums > 0) is is_small


def test_an_architecture_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of_tomorrow"}))
    with pytest.raises(JobFailure, match="architecture cannot be built"):
        Shape(tmp_path)


MEASURE = """
    import random, sys
    from concurrent.futures import Future
    from pathlib import Path
    from worker.grpo.config import GrpoConfig
    from worker.grpo.hf_sampler import HfSampler
    from worker.grpo.policy import Policy
    from worker.grpo.resident import peak_resident_bytes
    from worker.grpo.trainer import Trainer
    from worker.grpo.types import Graded, Prompt

    policy = Policy.load(Path(sys.argv[1]))
    vocab = policy.vocab_size
    micro_batch_tokens, max_cache_bytes = map(int, sys.argv[2:])

    def grade(prompt, rollout):
        future = Future()
        future.set_result(Graded(random.random(), {}, {}, 0.0, ""))
        return future

    config = GrpoConfig(
        total_steps=2, max_completion_tokens=64, learning_rate=1e-4, batch_size=2, group_size=4,
        micro_batch_tokens=micro_batch_tokens,
    )
    prompts = [Prompt(i, [random.randrange(vocab) for _ in range(64)], None) for i in range(4)]
    sampler = HfSampler(policy, eos_ids=[], max_cache_bytes=max_cache_bytes)
    trainer = Trainer(policy, sampler, config, prompts, [], grade=grade)
    assert len(list(trainer.steps())) == 2
    print(peak_resident_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["total", "least"])
@pytest.mark.parametrize(("layers", "hidden", "vocab"), [(6, 512, 8000), (8, 768, 32000)])
def test_the_peak_is_near_the_measured_one(
    layers: int, hidden: int, vocab: int, sizes: str, tmp_path: Path
) -> None:
    """With the sizes that are usual, and with one sequence at a time."""

    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    found = forecast(
        Shape(tmp_path),
        {**ASKED, "lora": {"rank": 16, "target_modules": "all-linear"}}
        | {"max_completion_tokens": 64, "batch_size": 2},
        longest_prompt_tokens=64,
        context_length=4096,
        device="cpu",
    )
    row = 64 + 64
    micro_batch_tokens, cache = {
        "total": (plan.micro_batch_tokens(found.num_parameters, "cpu"), MAX_CACHE_BYTES["cpu"]),
        "least": (row, row * found.cache_token_bytes),
    }[sizes]
    numbers = (str(micro_batch_tokens), str(cache))
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(tmp_path), *numbers]
    measured = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 0.75 < getattr(found, sizes) / measured < 1.4
