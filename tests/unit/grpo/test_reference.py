"""The engine in float64 against GRPO written out token by token, to 1e-10.

The reference knows nothing of padding, micro-batches, shared prompts or chunked heads: each
rollout goes through the whole model alone, each token's term is added up in a loop. The engine is
run in every split of the same work.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from tests.unit.grpo.tiny import EOS, VOCAB, disturb, prompts, tiny_config
from worker.grpo import logprobs
from worker.grpo.advantage import advantages
from worker.grpo.config import GrpoConfig
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.types import Graded, Group, Prompt, Rollout
from worker.grpo.update import Updater

P, G, T = 3, 4, 8
REWARDS = torch.tensor([[0.0, 1.0, 0.5, 0.25], [1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
LOSS_TYPES = ("grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo")


@pytest.fixture(scope="module")
def policy() -> Policy:
    # Of an architecture that computes in its weights' dtype: Llama's norms are fp32 always.
    torch.manual_seed(0)
    base = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    )
    policy = Policy(base.double(), LoraSettings(rank=4, alpha=8), seed=0)
    disturb(policy, 0.05)
    return policy


@pytest.fixture(scope="module")
def groups(policy: Policy) -> list[Group]:
    rows = HfSampler(policy, eos_ids=[EOS, *range(2, 14)]).sample(
        prompts(P),
        num_samples=G,
        max_tokens=T,
        temperature=0.8,
        seed=5,
        on_finished=lambda rollout: None,
        interrupt=lambda: None,
    )
    # A tool's result in the middle of a completion is there to be read, not to be trained.
    rows[0][1].loss_mask[1] = False
    weights = advantages(REWARDS, "group").tolist()
    return [
        Group(prompt, row, [Graded(0.0, {}, {}, 0.0, "")] * G, weight)
        for prompt, row, weight in zip(prompts(P), rows, weights, strict=True)
    ]


CASES: dict[str, dict[str, Any]] = {
    **{
        f"{loss_type}-{level}": {"loss_type": loss_type, "importance_level": level}
        for loss_type in LOSS_TYPES
        for level in ("token", "sequence")
    },
    **{
        f"{estimator}-{is_corrected}": {
            "kl_coef": 0.1,
            "kl_estimator": estimator,
            "kl_ratio_correction": is_corrected,
            "loss_type": loss_type,
        }
        for loss_type, estimator in (("grpo", "k1"), ("dapo", "k2"), ("dr_grpo", "k3"))
        for is_corrected in (True, False)
    },
    "delta-entropy-truncated": {"delta": 1.05, "entropy_coef": 0.05, "mask_truncated": True},
}
SPLITS = {
    "whole": {"micro_batch_tokens": 10_000},
    "split": {"micro_batch_tokens": 40},
    "one-by-one": {"micro_batch_tokens": 1},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_equal_the_reference(
    policy: Policy, groups: list[Group], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        **{"max_completion_tokens": T, "temperature": 0.8, "updates_per_rollout": 2}
        | {"cispo_max_ratio": 1.05}
        | changes
    )
    before = {name: p.detach().clone() for name, p in policy.trainable.items()}
    old = {id(r): sequence_scores(policy, g.prompt, r)[0].detach() for g, r in rollouts(groups)}
    updaters = [Updater(policy, replaced(config, **split)) for split in SPLITS.values()]
    works = [updater.prepare(groups) for updater in updaters]
    constants = [
        updater.constants(work, interrupt=lambda: None)
        for updater, work in zip(updaters, works, strict=True)
    ]
    disturb(policy, 0.01)

    expected = reference_loss(policy, groups, old, config)
    names, parameters = zip(*policy.trainable.items(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(expected, parameters), strict=True))
    # A head that must go in chunks, as one of 150,000 tokens would.
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 5 * policy.vocab_size)
    sizes = set()
    for updater, work, fixed in zip(updaters, works, constants, strict=True):
        sizes.add(len(work.batches))
        totals = updater.backward(work, fixed, interrupt=lambda: None, progress=lambda: None)
        assert totals["loss"] == pytest.approx(expected.item(), abs=1e-10)
        for name, parameter in policy.trainable.items():
            assert (parameter.grad - gradients[name]).abs().max() < 1e-10, name
    assert len(sizes) == len(SPLITS)

    with torch.no_grad():
        for name, parameter in policy.trainable.items():
            parameter.copy_(before[name])


def reference_loss(
    policy: Policy, groups: list[Group], old: dict[int, Tensor], config: GrpoConfig
) -> Tensor:
    """GRPO as its papers write it."""
    masks = {
        id(r): [
            m and not (config.mask_truncated and r.finish_reason == "length") for m in r.loss_mask
        ]
        for _, r in rollouts(groups)
    }
    num_tokens = sum(sum(mask) for mask in masks.values())
    total, entropy_sum = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for group in groups:
        for rollout, advantage in zip(group.rollouts, group.advantages, strict=True):
            mask = masks[id(rollout)]
            new, entropy = sequence_scores(policy, group.prompt, rollout)
            if config.kl_coef:
                with policy.reference(), torch.no_grad():
                    ref, _ = sequence_scores(policy, group.prompt, rollout)
            log_ratio = new - old[id(rollout)]
            if config.importance_level == "sequence":
                trained = [log_ratio[t] for t in range(len(mask)) if mask[t]]
                mean = sum(trained) / max(1, len(trained))
                log_ratio = torch.stack([torch.as_tensor(mean)] * len(mask))
            for t in range(len(mask)):
                if not mask[t]:
                    continue
                term = token_loss(log_ratio[t].exp(), advantage, new[t], config)
                if config.kl_coef:
                    kl = {
                        "k1": new[t] - ref[t],
                        "k2": (new[t] - ref[t]) ** 2 / 2,
                        "k3": (ref[t] - new[t]).exp() - (ref[t] - new[t]) - 1,
                    }[config.kl_estimator]
                    factor = log_ratio[t].exp() if config.kl_ratio_correction else 1
                    term = term + config.kl_coef * kl * factor
                denominator = {
                    "grpo": P * G * max(1, sum(mask)),
                    "sapo": P * G * max(1, sum(mask)),
                    "dr_grpo": P * G * T,
                }.get(config.loss_type, num_tokens)
                total = total + term / denominator
                entropy_sum = entropy_sum + entropy[t]
    return total - config.entropy_coef * entropy_sum / num_tokens


def token_loss(ratio: Tensor, advantage: float, logprob: Tensor, config: GrpoConfig) -> Tensor:
    if config.loss_type == "cispo":
        return -min(ratio.item(), config.cispo_max_ratio) * advantage * logprob
    if config.loss_type == "sapo":
        tau = config.sapo_temperature_pos if advantage > 0 else config.sapo_temperature_neg
        return -(4 / tau) / (1 + (-tau * (ratio - 1)).exp()) * advantage
    low, high = 1 - config.clip_eps_low, 1 + config.clip_eps_high
    clipped = ratio if low <= ratio <= high else ratio.new_tensor(low if ratio < low else high)
    bounded = ratio.new_tensor(config.delta) if config.delta and ratio > config.delta else ratio
    return -torch.minimum(bounded * advantage, clipped * advantage)


def sequence_scores(policy: Policy, prompt: Prompt, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of one completion, by the whole model on the whole sequence."""
    ids = torch.tensor([*prompt.ids, *rollout.completion_ids])
    logits = policy.model(input_ids=ids[None], use_cache=False).logits[0] / 0.8
    every = logits[len(prompt.ids) - 1 : -1].log_softmax(-1)
    chosen = every[range(len(rollout.completion_ids)), rollout.completion_ids]
    return chosen, -(every.exp() * every).sum(-1)


def rollouts(groups: list[Group]) -> list[tuple[Group, Rollout]]:
    return [(group, rollout) for group in groups for rollout in group.rollouts]


def replaced(config: GrpoConfig, **changes: Any) -> GrpoConfig:
    return tiny_config(**{f: getattr(config, f) for f in config.__slots__} | changes)
