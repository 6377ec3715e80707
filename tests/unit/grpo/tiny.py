"""Tiny random models and graders that the engine's tests share."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from worker.grpo.config import GrpoConfig
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.hooks import Hooks
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.trainer import Trainer
from worker.grpo.types import Graded, Group, Prompt, Rollout

EOS = 1
VOCAB = 128


def tiny_llama(seed: int = 0) -> PreTrainedModel:
    """A random Llama whose logits differ enough between contexts to be taught by GRPO."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=EOS,
        )
    )


def tiny_policy(*, seed: int = 0, noise: float = 0.0) -> Policy:
    """A policy over `tiny_llama`; `noise` moves the adapter off the base."""
    policy = Policy(tiny_llama(), LoraSettings(rank=8, alpha=16), seed=seed)
    disturb(policy, noise)
    return policy


def disturb(policy: Policy, noise: float) -> None:
    """Give every adapter weight a random push, so that the policy is not its base."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in policy.trainable.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)


def prompts(count: int, *, length: int = 5, seed: int = 0) -> list[Prompt]:
    """Random prompts of `length` to `length + 3` tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Prompt(i, torch.randint(2, VOCAB, (length + i % 4,), generator=generator).tolist())
        for i in range(count)
    ]


def drawn_elsewhere(group: Group) -> Group:
    """The same rollouts, with the log-probs of an engine that rounds otherwise."""
    shift = torch.Generator().manual_seed(group.prompt.index)

    def shifted(rollout: Rollout) -> Rollout:
        noise = 0.1 * torch.randn(len(rollout.sampler_logprobs), generator=shift)
        moved = torch.tensor(rollout.sampler_logprobs, dtype=torch.float64) + noise
        return replace(rollout, sampler_logprobs=moved.tolist())

    return replace(group, rollouts=[shifted(rollout) for rollout in group.rollouts])


def digit_share(prompt: Prompt, rollout: Rollout) -> float:
    """The share of tokens below 13: what a count of digits is to a real tokenizer."""
    return sum(2 <= token < 13 for token in rollout.completion_ids) / len(rollout.completion_ids)


def grader(
    reward: Callable[[Prompt, Rollout], float | None],
) -> Callable[[Prompt, Rollout], Future[Graded]]:
    """A grade function that answers at once."""

    def grade(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        value = reward(prompt, rollout)
        errors = {"crash": 1} if value is None else {}
        future: Future[Graded] = Future()
        future.set_result(Graded(value, {"digits": value}, errors, 0.0, ""))
        return future

    return grade


def tiny_config(**changes: object) -> GrpoConfig:
    """A configuration that learns on the tiny model within seconds."""
    values: dict[str, object] = {
        "total_steps": 4,
        "batch_size": 4,
        "group_size": 8,
        "max_completion_tokens": 16,
        "learning_rate": 1e-2,
        "eval_interval": 100,
        "eval_pass_k": 1,
        "sampler_check_interval": 10,
    }
    return GrpoConfig(**(values | changes))


def tiny_trainer(
    *,
    policy: Policy | None = None,
    reward: Callable[[Prompt, Rollout], float | None] = digit_share,
    num_held_out: int = 2,
    hooks: Hooks | None = None,
    **config: object,
) -> Trainer:
    """A trainer over the tiny model with everything in place."""
    policy = policy or tiny_policy()
    return Trainer(
        policy,
        HfSampler(policy, eos_ids=[EOS]),
        tiny_config(**config),
        prompts(8),
        prompts(num_held_out, seed=1),
        grade=grader(reward),
        hooks=hooks,
    )
