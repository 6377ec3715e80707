"""Every number a run needs, resolved: nothing here is "auto", nothing is read from elsewhere."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from worker.grpo.errors import InvalidConfig

LossType = Literal["grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo"]
KlEstimator = Literal["k1", "k2", "k3"]
AdvantageScale = Literal["group", "batch", "none"]
RewardAggregation = Literal["sum_then_normalize", "normalize_then_sum"]
ImportanceLevel = Literal["token", "sequence"]
SamplerCorrection = Literal[
    "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
]

CHOICES = {
    "loss_type": LossType,
    "kl_estimator": KlEstimator,
    "advantage_scale": AdvantageScale,
    "importance_level": ImportanceLevel,
    "reward_aggregation": RewardAggregation,
    "sampler_correction": SamplerCorrection,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoConfig:
    """One run. Raises `InvalidConfig` with the field's name when a value is impossible."""

    # A step: batch_size prompts, group_size rollouts each, updates_per_rollout updates.
    total_steps: int
    batch_size: int = 8
    group_size: int = 8
    updates_per_rollout: int = 1
    seed: int = 0

    # Sampling.
    max_completion_tokens: int
    temperature: float = 1.0
    mask_truncated: bool = False
    """Leave completions that ran into the token limit out of the loss."""

    overlong_buffer_tokens: int = 0
    """Length of the stretch before the token limit where a growing penalty joins the reward."""

    dynamic_sampling: bool = False
    """Replace groups without signal by those of the next prompts, `max_refills` times at most."""
    max_refills: int = 3

    # Objective.
    loss_type: LossType = "dapo"
    importance_level: ImportanceLevel = "token"
    advantage_scale: AdvantageScale = "group"
    reward_aggregation: RewardAggregation = "sum_then_normalize"
    """Whether advantages come from the reward, or from its components one by one (GDPO)."""
    component_weights: dict[str, float] = field(default_factory=dict)
    """What each component weighs in the reward; GDPO needs it."""
    clip_eps_low: float = 0.2
    clip_eps_high: float = 0.28
    delta: float | None = None
    """Upper bound of the ratio where the advantage is negative (two-sided clip)."""
    cispo_max_ratio: float = 5.0
    """Upper bound of CISPO's constant ratio; the clip_eps pair does not apply there."""
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    kl_coef: float = 0.0
    kl_estimator: KlEstimator = "k3"
    kl_ratio_correction: bool = True
    """Multiply the KL term by the ratio, which makes its gradient that of the reverse KL."""
    entropy_coef: float = 0.0
    sampler_correction: SamplerCorrection = "none"
    """Weigh the loss with trainer over sampler probabilities, where two engines differ."""
    sampler_ratio_min: float = 0.0
    sampler_ratio_max: float = 3.0

    # Update.
    learning_rate: float
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    micro_batch_tokens: int = 8192
    """Tokens of one forward and backward pass, padding included; the gradient does not depend on
    it."""
    max_nonfinite_updates: int = 3
    """Updates skipped for a NaN or infinite gradient before the run ends."""

    # Watching.
    eval_interval: int = 10
    """Steps between evaluations; one before the first step and one after the last come anyway."""
    eval_pass_k: int = 4
    """Sampled answers to a held-out prompt, for pass@k; 1: none beside the greedy one."""
    eval_pass_threshold: float = 0.5
    """The reward with which an answer passes."""
    early_stopping_patience: int | None = None
    """Evaluations in a row without a new best mean reward after which the run ends."""
    sampler_check_interval: int = 25

    def __post_init__(self) -> None:
        for name in ("total_steps", "batch_size", "updates_per_rollout", "max_completion_tokens",
                     "micro_batch_tokens", "eval_interval", "eval_pass_k",
                     "sampler_check_interval"):  # fmt: skip
            _require(getattr(self, name) >= 1, f"{name} must be at least 1")
        _require(self.group_size >= 2, "group_size must be at least 2: siblings are the baseline")
        for name in ("learning_rate", "max_grad_norm",
                     "sapo_temperature_pos", "sapo_temperature_neg"):  # fmt: skip
            _require(getattr(self, name) > 0, f"{name} must be above 0")
        for name in ("clip_eps_low", "clip_eps_high", "kl_coef", "entropy_coef", "warmup_steps",
                     "max_nonfinite_updates", "max_refills", "overlong_buffer_tokens"):  # fmt: skip
            _require(getattr(self, name) >= 0, f"{name} must not be negative")
        _require(self.temperature >= 0.1, "temperature must be at least 0.1 while training")
        _require(
            self.overlong_buffer_tokens < self.max_completion_tokens,
            "overlong_buffer_tokens must be below max_completion_tokens: it is the end of it",
        )
        _require(self.cispo_max_ratio >= 1, "cispo_max_ratio must be at least 1: it is a ratio")
        _require(
            0 <= self.sampler_ratio_min < 1 <= self.sampler_ratio_max,
            "sampler_ratio_min must be below 1 and sampler_ratio_max at least 1: they are ratios",
        )
        _require(
            self.early_stopping_patience is None or self.early_stopping_patience >= 1,
            "early_stopping_patience must be at least 1: it counts evaluations",
        )
        _require(self.delta is None or self.delta > 1, "delta must be above 1: it is a ratio")
        for name, choices in CHOICES.items():
            options = get_args(choices)
            _require(getattr(self, name) in options, f"{name} must be one of {', '.join(options)}")
        if self.reward_aggregation == "normalize_then_sum":
            _require(
                bool(self.component_weights) and self.advantage_scale == "group",
                "reward_aggregation normalize_then_sum needs component_weights, and normalises "
                "by group and then by batch: advantage_scale must stay group",
            )


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise InvalidConfig(sentence)
