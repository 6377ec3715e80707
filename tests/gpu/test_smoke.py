"""A run of the engine on CUDA: bf16 base, fp32 adapter; needs torch, transformers, peft, pytest."""

from concurrent.futures import Future
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from worker.grpo.config import GrpoConfig
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.trainer import Trainer
from worker.grpo.types import Graded, Prompt, Rollout

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="This machine has no CUDA device."
)

STEPS = 40


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A random Llama on disk whose logits differ enough between contexts to be taught."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def digit_share(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
    ids = rollout.completion_ids
    reward = sum(2 <= token < 13 for token in ids) / len(ids)
    future: Future[Graded] = Future()
    future.set_result(Graded(reward, {}, {}, 0.0, ""))
    return future


def trainer_on(base: Path) -> Trainer:
    policy = Policy.load(base, lora=LoraSettings(rank=8, alpha=16), device="cuda")
    generator = torch.Generator().manual_seed(0)
    prompts = [
        Prompt(i, torch.randint(2, 128, (6 + i % 5,), generator=generator).tolist())
        for i in range(16)
    ]
    config = GrpoConfig(
        total_steps=STEPS,
        batch_size=8,
        group_size=8,
        max_completion_tokens=16,
        learning_rate=1e-2,
        kl_coef=1e-3,
        eval_interval=STEPS,
        sampler_check_interval=5,
        micro_batch_tokens=1024,
    )
    sampler = HfSampler(policy, eos_ids=[1])
    return Trainer(policy, sampler, config, prompts[:8], prompts[8:], grade=digit_share)


def test_it_learns_checks_itself_saves_and_goes_on(base: Path, tmp_path: Path) -> None:
    trainer = trainer_on(base)
    assert trainer.policy.dtype == torch.bfloat16
    assert {p.dtype for p in trainer.policy.trainable.values()} == {torch.float32}
    checksum = trainer.policy.base_checksum()

    results = []
    for result in trainer.steps():
        results.append(result)
        if result.step == STEPS // 2:
            trainer.save(tmp_path / "state")
    rewards = [result.metrics["reward"] for result in results[1:]]
    assert fmean(rewards[-3:]) > fmean(rewards[:3]) + 0.3
    assert trainer.policy.base_checksum() == checksum

    resumed = trainer_on(base)
    resumed.restore(tmp_path / "state")
    assert [result.step for result in resumed.steps()] == list(range(STEPS // 2 + 1, STEPS + 1))
    trainer.policy.save_adapter(tmp_path / "adapter", base_name="base", revision=None)
    resumed.policy.load_adapter(tmp_path / "adapter")
    assert resumed.policy.adapter_fingerprint() == trainer.policy.adapter_fingerprint()
