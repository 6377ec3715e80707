"""GRPO written out, number by number, from the papers: what the engine is held against.

It shares no arithmetic with the engine and knows nothing of padding, micro-batches or shared
prompts: rewards are Python numbers in lists, each token's term is added up in a loop.
"""

import math

import torch
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from tests.unit.grpo.tiny import EOS, VOCAB, disturb, prompts
from worker.grpo.aggregate import with_advantages
from worker.grpo.config import GrpoConfig
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.types import Graded, Group, Prompt, Rollout

P, G, T = 3, 4, 8
EPS = 1e-4  # TRL's, in every division by a standard deviation.
# Two components: a group with a failed grader, one in which one of them is constant, one dead.
WEIGHTS = {"first": 0.7, "second": 0.3}
FIRST = [[0.0, 1.0, 0.5, 0.25], [None, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]]
SECOND = [[9.0, 2.0, 4.0, 0.0], [None, 3.0, 3.0, 3.0], [8.0, 8.0, 8.0, 8.0]]


def float64_policy() -> Policy:
    """A policy in float64, of an architecture that computes in it: Llama's norms are fp32."""
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


def drawn_groups(policy: Policy, config: GrpoConfig | None = None) -> list[Group]:
    """Graded groups, with the engine's advantages for the configuration."""
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
    bare = [
        Group(prompt, row, [_graded(p, i) for i in range(G)], [])
        for p, (prompt, row) in enumerate(zip(prompts(P), rows, strict=True))
    ]
    return with_advantages(bare, config or GrpoConfig(**REQUIRED))


REQUIRED = {"total_steps": 1, "max_completion_tokens": T, "learning_rate": 1e-3}


def _graded(prompt: int, sample: int) -> Graded:
    first, second = FIRST[prompt][sample], SECOND[prompt][sample]
    if first is None or second is None:
        return Graded(None, {"first": first, "second": second}, {"other_error": 1}, 0.0, "")
    reward = WEIGHTS["first"] * first + WEIGHTS["second"] * second
    return Graded(reward, {"first": first, "second": second}, {}, 0.0, "")


def advantages_of(groups: list[Group], config: GrpoConfig) -> list[list[float]]:
    """Each rollout's advantage from its group's rewards, failed grades kept out and at 0."""
    rewards = [[one.reward for one in group.graded] for group in groups]
    if config.reward_aggregation == "normalize_then_sum":
        return _gdpo(groups)
    everything = [r for row in rewards for r in row if r is not None]
    result = []
    for row in rewards:
        known = [r for r in row if r is not None]
        divisor = {
            "group": _deviation(known) + EPS,
            "batch": _deviation(everything) + EPS,
            "none": 1.0,
        }[config.advantage_scale]
        mean, is_dead = math.fsum(known) / len(known), max(known) == min(known)
        result.append([0.0 if r is None or is_dead else (r - mean) / divisor for r in row])
    return result


def _gdpo(groups: list[Group]) -> list[list[float]]:
    """Each component over its group's deviation, weighted and summed; then over the batch's."""
    sums: list[list[float | None]] = []
    for group in groups:
        known = [i for i, one in enumerate(group.graded) if one.reward is not None]
        row: list[float | None] = [0.0 if i in known else None for i in range(len(group.graded))]
        for name, weight in WEIGHTS.items():
            values = {i: float(group.graded[i].components[name] or 0.0) for i in known}
            if max(values.values()) == min(values.values()):
                continue
            mean = math.fsum(values.values()) / len(values)
            divisor = _deviation(list(values.values())) + EPS
            for i in known:
                row[i] = (row[i] or 0.0) + weight * (values[i] - mean) / divisor
        sums.append(row)
    everything = [x for row in sums for x in row if x is not None]
    mean, divisor = math.fsum(everything) / len(everything), _deviation(everything) + EPS
    result = []
    for row in sums:
        finite = [x for x in row if x is not None]
        is_dead = max(finite) == min(finite)
        result.append([0.0 if x is None or is_dead else (x - mean) / divisor for x in row])
    return result


def _deviation(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def reference_loss(
    groups: list[Group],
    scores: dict[int, tuple[Tensor, Tensor]],
    old: dict[int, Tensor],
    ref: dict[int, Tensor],
    config: GrpoConfig,
) -> Tensor:
    """GRPO as its papers write it.

    By the identity of each rollout: log-probs and entropies now, old log-probs, the reference's.
    """
    masks = {
        id(r): [
            m and not (config.mask_truncated and r.finish_reason == "length") for m in r.loss_mask
        ]
        for _, r in rollouts(groups)
    }
    num_tokens = sum(sum(mask) for mask in masks.values())
    total, entropy_sum = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for group, row in zip(groups, advantages_of(groups, config), strict=True):
        for rollout, advantage in zip(group.rollouts, row, strict=True):
            mask = masks[id(rollout)]
            new, entropy = scores[id(rollout)]
            base = ref[id(rollout)]
            log_ratio = new - old[id(rollout)]
            if config.importance_level == "sequence":
                trained = [log_ratio[t] for t in range(len(mask)) if mask[t]]
                mean = sum(trained) / max(1, len(trained))
                log_ratio = torch.stack([torch.as_tensor(mean)] * len(mask))
            corrections = sampler_corrections(rollout, old[id(rollout)], mask, config)
            for t in range(len(mask)):
                if not mask[t]:
                    continue
                term = token_loss(log_ratio[t].exp(), advantage, new[t], config) * corrections[t]
                if config.kl_coef:
                    kl = {
                        "k1": new[t] - base[t],
                        "k2": (new[t] - base[t]) ** 2 / 2,
                        "k3": (base[t] - new[t]).exp() - (base[t] - new[t]) - 1,
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


def sampler_corrections(
    rollout: Rollout, old: Tensor, mask: list[bool], config: GrpoConfig
) -> list[float]:
    if config.sampler_correction == "none":
        return [1.0] * len(mask)
    level, action = config.sampler_correction.split("_")
    differences = [float(old[t]) - rollout.sampler_logprobs[t] for t in range(len(mask))]
    if level == "sequence":
        total = sum(d for d, is_trained in zip(differences, mask, strict=True) if is_trained)
        differences = [total] * len(mask)
    low, high = config.sampler_ratio_min, config.sampler_ratio_max
    ratios = [math.exp(d) for d in differences]
    if action == "truncate":
        return [min(max(ratio, low), high) for ratio in ratios]
    return [ratio if low <= ratio <= high else 0.0 for ratio in ratios]


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
