"""The knobs of a reinforcement job: OpenAI's seven and ours beside them, with their ranges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jobs.thinking import Effort

DEFAULT_GROUP_SIZE = 8
MAX_EPOCHS = 50

Auto = Literal["auto"]
AUTO: Auto = "auto"

Count = Annotated[int, Field(strict=True, ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]

# What other trainers call it -> what it is called here.
FOREIGN_NAMES = {
    "num_generations": "group_size",
    "n_samples_per_prompt": "group_size",
    "rollout.n": "group_size",
    "max_completion_length": "max_completion_tokens",
    "max_new_tokens": "max_completion_tokens",
    "max_tokens": "max_completion_tokens",
    "response_length": "max_completion_tokens",
    "beta": "kl_coef",
    "kl_loss_coef": "kl_coef",
    "epsilon": "clip_eps_low",
    "clip_ratio": "clip_eps_low",
    "clip_ratio_low": "clip_eps_low",
    "epsilon_high": "clip_eps_high",
    "clip_ratio_high": "clip_eps_high",
    "clip_ratio_c": "delta",
    "num_iterations": "updates_per_rollout",
    "ppo_epochs": "updates_per_rollout",
    "scale_rewards": "advantage_scale",
    "importance_sampling_level": "importance_level",
    "mask_truncated_completions": "mask_truncated",
    "num_train_epochs": "n_epochs",
    "epochs": "n_epochs",
    "lr": "learning_rate",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "eval_steps": "eval_interval",
    "test_freq": "eval_interval",
    "num_generations_eval": "eval_pass_k",
    "pass_at_k": "eval_pass_k",
    "pass_threshold": "eval_pass_threshold",
    "early_stopping": "early_stopping_patience",
    "patience": "early_stopping_patience",
    "save_steps": "checkpoint_interval",
    "r": "lora.rank",
    "rank": "lora.rank",
    "lora_r": "lora.rank",
    "lora_rank": "lora.rank",
    "alpha": "lora.alpha",
    "lora_alpha": "lora.alpha",
    "target_modules": "lora.target_modules",
    "lora_target_modules": "lora.target_modules",
    "grad_clip": "max_grad_norm",
    "multi_objective_aggregation": "reward_aggregation",
    "overlong_buffer_len": "overlong_buffer_tokens",
    "filter_groups": "dynamic_sampling",
    "max_num_gen_batches": "max_refills",
    "kl_loss_type": "kl_estimator",
    "use_bias_correction_kl": "kl_ratio_correction",
    "entropy_coeff": "entropy_coef",
    "rollout_is": "sampler_correction",
    "vllm_importance_sampling_correction": "sampler_correction",
    "vllm_importance_sampling_mode": "sampler_correction",
    "rollout_is_threshold": "sampler_ratio_max",
    "vllm_importance_sampling_cap": "sampler_ratio_max",
    "vllm_importance_sampling_clip_max": "sampler_ratio_max",
    "vllm_importance_sampling_clip_min": "sampler_ratio_min",
}


def scaled_group_size(compute_multiplier: float) -> int:
    """The completions of one prompt that a `compute_multiplier` stands for."""
    return max(2, round(DEFAULT_GROUP_SIZE * compute_multiplier))


def is_number(value: object) -> bool:
    """Whether a value of several kinds is the number among them."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Lora(BaseModel):
    """The adapter's shape."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    rank: Annotated[int, Field(strict=True, ge=1, le=512)] = 16
    alpha: Annotated[int, Field(strict=True, ge=1, le=4096)] = 32
    target_modules: Literal["all-linear"] | list[Annotated[str, Field(min_length=1)]] = "all-linear"
    dropout: float = 0.0

    @model_validator(mode="after")
    def _can_be_trained(self) -> Lora:
        if self.dropout != 0:
            raise ValueError(
                "dropout must be 0: with it the policy that is trained is not the one that sampled"
            )
        if self.target_modules == []:
            raise ValueError("target_modules is empty: name the layers, or leave 'all-linear'")
        return self


class Hyperparameters(BaseModel):
    """As sent: the validator and the first attempt resolve `"auto"`, and the job shows it."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    # Read first, since it bounds the epochs.
    max_steps: Auto | Count = AUTO
    """Optimizer steps; with `n_epochs`, whichever comes first."""

    # OpenAI's
    n_epochs: Auto | Count = AUTO
    """Passes over the training file, up to 50, or more where `max_steps` bounds them; auto: enough
    for at least 100 steps."""
    batch_size: Auto | Annotated[int, Field(strict=True, ge=1, le=256)] = AUTO
    """Prompts a step; auto: 8, or all rows when there are fewer."""
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000)] = AUTO
    """Scales the model's own rate. Beside `learning_rate` it must come to the same."""
    compute_multiplier: Auto | Annotated[float, Field(gt=1e-5, le=10)] = AUTO
    """Scales the 8 of `group_size`; beside that, it must come to the same."""
    eval_interval: Auto | Count = AUTO
    """Steps between evaluations; auto: about ten in a job."""
    eval_samples: Auto | Count = AUTO
    """Held-out rows an evaluation reads; auto: all, up to 200."""
    reasoning_effort: Effort = "default"
    """Sets the thinking switch of the model's chat template, and raises an auto token limit."""

    # Ours
    group_size: Auto | Annotated[int, Field(strict=True, ge=2, le=256)] = AUTO
    """Completions sampled for one prompt; auto: 8, scaled by `compute_multiplier`."""
    learning_rate: Auto | Annotated[float, Field(gt=0, le=1)] = AUTO
    """auto: what suits the model."""
    max_completion_tokens: Auto | Count = AUTO
    """Tokens a completion may have; auto: 1.3 x the 95th percentile of the base model's own."""
    temperature: Annotated[float, Field(ge=0.1, le=2)] = 1.0
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo"] = "dapo"
    clip_eps_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_eps_high: Annotated[float, Field(gt=0, le=10)] = 0.28
    delta: Annotated[float, Field(gt=1, le=100)] | None = None
    """Upper bound of the ratio where the advantage is negative; it must be above the clip's."""
    cispo_max_ratio: Annotated[float, Field(ge=1, le=100)] = 5.0
    sapo_temperature_pos: Annotated[float, Field(gt=0, le=100)] = 1.0
    sapo_temperature_neg: Annotated[float, Field(gt=0, le=100)] = 1.05
    kl_coef: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Weight of the divergence from the base model (the adapter switched off)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_ratio_correction: Annotated[bool, Field(strict=True)] = True
    """Multiply the divergence by the ratio, which makes its gradient that of the reverse KL."""
    entropy_coef: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the entropy bonus."""
    sampler_correction: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = "none"
    """Weigh the loss with trainer over sampler probabilities, cut or zeroed at the bounds."""
    sampler_ratio_min: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sampler_ratio_max: Annotated[float, Field(ge=1, le=1000)] = 3.0
    sampler_check_interval: Count = 25
    """Steps between proofs that what is sampled is what is being trained."""
    dynamic_sampling: Annotated[bool, Field(strict=True)] = False
    """Replace groups whose rewards are all the same by those of the next prompts."""
    max_refills: Annotated[int, Field(strict=True, ge=1, le=16)] = 3
    """How often a step may do so."""
    advantage_scale: Literal["group", "batch", "none"] = "group"
    reward_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """normalize_then_sum (GDPO): each grader of a weighted `multi` is normalised by itself."""
    importance_level: Literal["token", "sequence"] = "token"
    updates_per_rollout: Annotated[int, Field(strict=True, ge=1, le=16)] = 1
    mask_truncated: Annotated[bool, Field(strict=True)] = False
    """Leave completions that hit the token limit out of the loss."""
    overlong_buffer_tokens: Annotated[int, Field(strict=True, ge=0)] = 0
    """Tokens before the limit over which a penalty falls from 0 to -1; 0: no penalty."""
    on_grader_error: (
        Literal["drop", "fail"]
        | Annotated[float, Field(strict=True, ge=-1e6, le=1e6, allow_inf_nan=False)]
    ) = "drop"
    """A failed grade: leave the sample out of its group, end the job, or this reward instead."""
    max_grader_error_ratio: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.5
    """Share of the last ten steps' grades that may fail before the job ends."""
    warmup_steps: Annotated[int, Field(strict=True, ge=0)] = 0
    max_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    eval_pass_k: Auto | Annotated[int, Field(strict=True, ge=1, le=64)] = AUTO
    """Sampled answers to each of the first 64 held-out rows, for pass@k; auto: 4; 1: none."""
    eval_pass_threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.5
    """The reward with which an answer passes."""
    early_stopping_patience: Annotated[int, Field(strict=True, ge=1)] | None = None
    """End after this many evaluations in a row without a new best mean reward; none: never."""
    checkpoint_interval: Auto | Count = AUTO
    """Steps between checkpoints, beside one at each evaluation; auto: a tenth of the job."""
    lora: Lora = Lora()

    @field_validator("n_epochs")
    @classmethod
    def _is_bounded(cls, value: int | Auto, info: ValidationInfo) -> int | Auto:
        if value != AUTO and value > MAX_EPOCHS and info.data.get("max_steps") in (None, AUTO):
            raise ValueError(
                f"it should be less than or equal to {MAX_EPOCHS}, unless max_steps bounds it"
            )
        return value

    @field_validator("on_grader_error", mode="before")
    @classmethod
    def _is_a_word_or_a_number(cls, value: Any) -> Any:
        if value not in ("drop", "fail") and not is_number(value):
            raise ValueError("it is 'drop', 'fail', or a number, the reward of a failed grade")
        return float(value) if is_number(value) else value

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_absent(cls, value: Any) -> Any:
        """OpenAI's client sends an explicit None as null, meaning the default."""
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if item is not None}
        return value

    @model_validator(mode="after")
    def _possible_together(self) -> Hyperparameters:
        self._one_group_size()
        if self.clip_eps_high < self.clip_eps_low and self.importance_level == "token":
            raise ValueError(
                f"clip_eps_high ({self.clip_eps_high}) is below clip_eps_low "
                f"({self.clip_eps_low}): the range would favour forgetting over learning"
            )
        if self.reward_aggregation == "normalize_then_sum" and self.advantage_scale != "group":
            raise ValueError(
                "reward_aggregation 'normalize_then_sum' normalises by group and then by batch: "
                "leave advantage_scale at 'group'"
            )
        room = self.max_completion_tokens
        if room != AUTO and self.overlong_buffer_tokens >= room:
            raise ValueError(
                f"overlong_buffer_tokens ({self.overlong_buffer_tokens}) is not below "
                f"max_completion_tokens ({room}): it is the last part of it"
            )
        if self.reward_aggregation == "normalize_then_sum" and is_number(self.on_grader_error):
            raise ValueError(
                "reward_aggregation 'normalize_then_sum' reads each grader's own number, and a "
                "failed one has none: on_grader_error must be 'drop' or 'fail'"
            )
        self._delta_has_an_effect()
        return self

    def _one_group_size(self) -> None:
        """A job that ran shows both, and may be sent again as it is shown."""
        if self.group_size == AUTO or self.compute_multiplier == AUTO:
            return
        scaled = scaled_group_size(self.compute_multiplier)
        if self.group_size != scaled:
            raise ValueError(
                f"group_size is {self.group_size}, and compute_multiplier "
                f"({self.compute_multiplier}) makes it {scaled}: keep one"
            )

    def _delta_has_an_effect(self) -> None:
        if self.delta is None:
            return
        if self.loss_type in ("cispo", "sapo"):
            raise ValueError(
                f"delta bounds the ratio of the clipped losses, and {self.loss_type} is none: "
                "leave delta out or choose another loss_type"
            )
        if self.delta <= 1 + self.clip_eps_high:
            raise ValueError(
                f"delta ({self.delta}) is not above 1 + clip_eps_high ({1 + self.clip_eps_high}): "
                "the clip binds first and delta would do nothing"
            )
