"""From a job's resolved hyperparameters to the engine's configuration."""

from dataclasses import fields
from typing import Any

import pytest

from jobs.hyperparameters import Hyperparameters
from jobs.resolve import resolve
from worker.grpo.config import GrpoConfig
from worker.plan import grpo_config

# What only the engine knows of: no job may ask for it.
OF_THE_ENGINE = {
    "micro_batch_tokens",
    "max_nonfinite_updates",
    "seed",
    "total_steps",
    "component_weights",
}


def config_of(**asked: Any) -> GrpoConfig:
    values = resolve(
        Hyperparameters.model_validate({"max_completion_tokens": 16, **asked}),
        num_rows=64,
        num_held_out=8,
        model_learning_rate=1e-3,
    )
    resolved = {"hyperparameters": values, "machine": {"micro_batch_tokens": 1024}}
    return grpo_config(resolved, seed=3, component_weights={"a": 1.0})


def test_the_engines_defaults_are_the_jobs() -> None:
    theirs = config_of(n_epochs=1)
    ours = GrpoConfig(total_steps=1, max_completion_tokens=16, learning_rate=1e-3)
    differing = {
        f.name for f in fields(GrpoConfig) if getattr(theirs, f.name) != getattr(ours, f.name)
    }
    assert differing - OF_THE_ENGINE <= {"eval_interval"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dynamic_sampling", True),
        ("max_refills", 5),
        ("overlong_buffer_tokens", 4),
        ("delta", 4.0),
        ("sapo_temperature_pos", 0.5),
        ("sapo_temperature_neg", 2.0),
        ("kl_estimator", "k1"),
        ("kl_ratio_correction", False),
        ("entropy_coef", 0.01),
        ("sampler_correction", "token_mask"),
        ("sampler_ratio_min", 0.25),
        ("sampler_ratio_max", 2.0),
        ("sampler_check_interval", 7),
        ("reward_aggregation", "normalize_then_sum"),
    ],
)
def test_what_a_job_asks_for_reaches_the_engine(name: str, value: Any) -> None:
    assert getattr(config_of(**{name: value}), name) == value
