"""Loss and gradients equal TRL 1.16's own, on the same model, completions and rewards.

TRL's real `GRPOTrainer` is built for each case and fed our rollouts through its own `rollout_func`;
its rewards, advantages, old and reference log-probs and loss are its own. What TRL lacks is held to
GRPO written out in float64: the k1 and k2 estimators in `test_reference_product.py`, with every
objective, importance level and scale; per-token masks, sampler corrections and splits into
micro-batches in `test_reference.py`, each with some of the objectives.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from tests.unit.grpo.tiny import (
    EOS,
    VOCAB,
    disturb,
    drawn_elsewhere,
    prompts,
    tiny_config,
    tiny_llama,
    tiny_policy,
)
from worker.grpo.aggregate import with_advantages
from worker.grpo.config import GrpoConfig
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import Policy
from worker.grpo.types import Graded, Group, Rollout
from worker.grpo.update import Updater

# TRL 1.16 calls transformers 5.23 by names deprecated there, and its `rollout_func` experimental.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*'rollout_func'.*:UserWarning"),
]

P, G, T = 3, 4, 8
# One group with a spread, one with a failed grader, one without signal.
REWARDS = [[0.0, 1.0, 0.5, 0.25], [None, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]]
# A second reward beside it, of another range; it fails where the first does, as a `multi` would.
OTHERS = [[9.0, 2.0, 4.0, 0.0], [None, 3.0, 7.0, 1.0], [8.0, 8.0, 8.0, 8.0]]
WEIGHTS = {"first": 0.7, "second": 0.3}

CASES: dict[str, dict[str, Any]] = {
    **{
        f"{loss_type}-{level}": {"loss_type": loss_type, "importance_level": level}
        for loss_type in ("grpo", "bnpo", "dapo", "dr_grpo", "sapo", "cispo")
        for level in ("token", "sequence")
    },
    "scale-batch": {"advantage_scale": "batch"},
    "scale-none": {"advantage_scale": "none", "loss_type": "dr_grpo"},
    "gdpo": {"reward_aggregation": "normalize_then_sum", "component_weights": WEIGHTS},
    "kl": {"kl_coef": 0.1, "kl_ratio_correction": False},
    "kl-corrected": {"kl_coef": 0.1, "loss_type": "grpo"},
    "kl-sequence": {"kl_coef": 0.1, "importance_level": "sequence", "loss_type": "dr_grpo"},
    "clip-tight": {"clip_eps_low": 3e-4, "clip_eps_high": 4e-4, "importance_level": "sequence"},
    "delta": {"delta": 1.05, "loss_type": "grpo"},
    "entropy": {"entropy_coef": 0.05, "kl_coef": 0.1},
    "temperature": {"temperature": 0.7},
    "mask-truncated": {"mask_truncated": True},
    "mask-truncated-grpo": {"mask_truncated": True, "loss_type": "grpo"},
    **{
        f"sampler-{mode}": {
            "sampler_correction": mode,
            "sampler_ratio_min": 1 / bound,
            "sampler_ratio_max": bound,
            "loss_type": loss_type,
        }
        for mode, loss_type, bound in (
            ("token_truncate", "dapo", 1.1),
            ("token_mask", "grpo", 1.1),
            ("sequence_truncate", "dr_grpo", 1.3),
            ("sequence_mask", "dr_grpo", 1.3),
        )
    },
    "on-policy": {"updates_per_rollout": 1},
    "on-policy-cispo-kl": {"updates_per_rollout": 1, "loss_type": "cispo", "kl_coef": 0.1},
}

# Everything with everything, as far as TRL has it: of the KL estimators that is k3 alone.
KL = {"none": {}, "k3": {"kl_ratio_correction": False}, "k3-corrected": {}}
MATRIX: dict[str, dict[str, Any]] = {
    f"{loss_type}-{level}-{scale}-{kl}": {
        "loss_type": loss_type,
        "importance_level": level,
        "advantage_scale": scale,
        "kl_coef": 0.0 if kl == "none" else 0.1,
        **KL[kl],
    }
    for loss_type in ("grpo", "bnpo", "dapo", "dr_grpo", "sapo", "cispo")
    for level in ("token", "sequence")
    for scale in ("group", "batch", "none")
    for kl in KL
}


@pytest.fixture(autouse=True)
def _precision(changes: dict[str, Any]) -> Iterator[None]:
    """Fp32, but float64 for both sides where log-probs of a whole sequence are added up.

    In a product of ratios and in CISPO's loss fp32's rounding comes to about the bounds, and on
    some processors past them.
    """
    is_product = changes.get("sampler_correction", "").startswith("sequence")
    is_sum = changes.get("loss_type") == "cispo" and changes.get("importance_level") == "sequence"
    torch.set_default_dtype(torch.float64 if is_product or is_sum else torch.float32)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("changes", MATRIX.values(), ids=MATRIX.keys())
def test_every_combination_equals_trl(changes: dict[str, Any], tmp_path: Path) -> None:
    assert_equals_trl(changes, tmp_path)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_equal_trl(changes: dict[str, Any], tmp_path: Path) -> None:
    assert_equals_trl(changes, tmp_path)


def assert_equals_trl(changes: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(
        **{"batch_size": P, "group_size": G, "max_completion_tokens": T}
        | {"updates_per_rollout": 2, "cispo_max_ratio": 1.05}
        | changes
    )
    policy = tiny_policy(noise=0.05)
    groups = graded_groups(policy, config)
    if config.sampler_correction != "none":
        groups = [drawn_elsewhere(group) for group in groups]

    trl = trl_trainer(config, groups, policy, tmp_path)
    inputs = trl._generate_and_score_completions([{"prompt": "t2"} for _ in range(P * G)])
    torch.testing.assert_close(
        inputs["advantages"].double(),
        torch.tensor([a for group in groups for a in group.advantages], dtype=torch.float64),
        rtol=1e-5,
        atol=1e-6,
    )
    updater = Updater(policy, config)
    work = updater.prepare(groups)
    constants = updater.constants(work, interrupt=lambda: None)

    disturb(policy, 0.01)  # Old and new log-probs differ from here on.
    copy_adapter(policy, trl)
    expected = trl._compute_loss(trl.model, inputs)
    expected.backward()
    totals = updater.backward(work, constants, interrupt=lambda: None, progress=lambda: None)

    assert totals["loss"] == pytest.approx(expected.item(), abs=1e-6)
    theirs = {n: p.grad for n, p in trl.model.named_parameters() if p.requires_grad}
    assert theirs.keys() == policy.trainable.keys()
    for name, parameter in policy.trainable.items():
        largest = theirs[name].abs().max()
        assert largest > 0
        assert (parameter.grad - theirs[name]).abs().max() <= 1e-5 * largest, name


def graded_groups(policy: Policy, config: GrpoConfig) -> list[Group]:
    """Real rollouts of uneven lengths with the rewards of the table."""
    sampler = HfSampler(policy, eos_ids=[EOS, *range(2, 14)])
    rows = sampler.sample(
        prompts(P),
        num_samples=G,
        max_tokens=T,
        temperature=config.temperature,
        seed=5,
        on_finished=lambda rollout: None,
        interrupt=lambda: None,
    )
    assert {r.finish_reason for row in rows for r in row} == {"stop", "length"}
    groups = [
        Group(
            prompt,
            row,
            [
                Graded(r, {"first": r, "second": other}, {}, 0.0, "")
                for r, other in zip(rewards, others, strict=True)
            ],
            [],
        )
        for prompt, row, rewards, others in zip(prompts(P), rows, REWARDS, OTHERS, strict=True)
    ]
    return with_advantages(groups, config)


def trl_trainer(
    config: GrpoConfig, groups: list[Group], policy: Policy, folder: Path
) -> GRPOTrainer:
    """TRL's trainer with the same settings, base, adapter, completions and rewards."""
    rollouts: list[Rollout] = [rollout for group in groups for rollout in group.rollouts]
    is_corrected = config.sampler_correction != "none"

    def replay(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        logprobs = [rollout.sampler_logprobs for rollout in rollouts]
        return {
            "prompt_ids": [group.prompt.ids for group in groups for _ in group.rollouts],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            "logprobs": logprobs if is_corrected else None,
        }

    is_gdpo = config.reward_aggregation == "normalize_then_sum"
    trainer = GRPOTrainer(
        model=tiny_llama(),
        reward_funcs=[table(REWARDS), table(OTHERS)] if is_gdpo else table(REWARDS),
        args=trl_config(config, folder),
        train_dataset=Dataset.from_dict({"prompt": ["t2"] * P * G}),
        processing_class=tokenizer(),
        peft_config=LoraConfig(
            r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        rollout_func=replay,
    )
    trainer.current_gradient_accumulation_steps = 1
    if is_corrected:
        # Its correction is for vLLM alone; the rollouts are ours, so there is no engine to feed.
        trainer.use_vllm = True
        trainer._last_loaded_step = trainer.state.global_step
    trainer.eos_token_ids = [EOS, *range(2, 14)]
    copy_adapter(policy, trainer)
    return trainer


def trl_config(config: GrpoConfig, folder: Path) -> GRPOConfig:
    """The same settings under TRL's names."""
    is_corrected = config.sampler_correction != "none"
    is_gdpo = config.reward_aggregation == "normalize_then_sum"
    is_cispo = config.loss_type == "cispo"
    return GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        per_device_train_batch_size=P * G,
        num_generations=G,
        max_completion_length=T,
        num_iterations=config.updates_per_rollout,
        loss_type=config.loss_type,
        importance_sampling_level=config.importance_level,
        multi_objective_aggregation=config.reward_aggregation,
        reward_weights=list(WEIGHTS.values()) if is_gdpo else None,
        scale_rewards=config.advantage_scale,
        epsilon=config.clip_eps_low,
        epsilon_high=config.cispo_max_ratio if is_cispo else config.clip_eps_high,
        delta=config.delta,
        beta=config.kl_coef,
        use_bias_correction_kl=config.kl_ratio_correction,
        entropy_coef=config.entropy_coef,
        temperature=config.temperature,
        mask_truncated_completions=config.mask_truncated,
        vllm_importance_sampling_correction=is_corrected,
        vllm_importance_sampling_mode=config.sampler_correction if is_corrected else "token_mask",
        vllm_importance_sampling_clip_min=config.sampler_ratio_min,
        vllm_importance_sampling_clip_max=config.sampler_ratio_max,
    )


def table(rewards: list[list[float | None]]) -> Callable[..., list[float | None]]:
    """A reward function that looks its values up."""

    def looked_up(completions: list[str], **_: object) -> list[float | None]:
        return [reward for row in rewards for reward in row]

    looked_up.__name__ = f"table_{id(rewards)}"  # TRL tells rewards apart by their names.
    return looked_up


def copy_adapter(policy: Policy, trainer: GRPOTrainer) -> None:
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(policy.trainable[name])


def tokenizer() -> PreTrainedTokenizerFast:
    """A vocabulary of words t0, t1, ...: TRL asks for a tokenizer, the ids are ours."""
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t0"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t1", pad_token="t0")
