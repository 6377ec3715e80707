"""From a job's resolved hyperparameters to the engine's configuration."""

from dataclasses import fields
from typing import Any

import pytest
import torch

from jobs.hyperparameters import Hyperparameters
from jobs.resolve import resolve
from worker import plan
from worker.grpo.config import GrpoConfig
from worker.plan import grpo_config, probe_threads

# What only the engine knows of: no job may ask for it.
OF_THE_ENGINE = {
    "micro_batch_tokens",
    "max_nonfinite_updates",
    "seed",
    "total_steps",
    "component_weights",
}


def resolved(**asked: Any) -> dict[str, Any]:
    return resolve(
        Hyperparameters.model_validate({"max_completion_tokens": 16, **asked}),
        num_rows=64,
        num_held_out=8,
        model_learning_rate=1e-3,
    )


def built(hyperparameters: dict[str, Any]) -> GrpoConfig:
    resolved = {"hyperparameters": hyperparameters, "machine": {"micro_batch_tokens": 1024}}
    return grpo_config(resolved, seed=3, component_weights={"a": 1.0})


def config_of(**asked: Any) -> GrpoConfig:
    return built(resolved(**asked))


@pytest.mark.parametrize("name", ["sapo_temperature_neg", "sampler_correction", "max_refills"])
def test_a_job_that_an_earlier_release_resolved_has_the_defaults_of_newer_numbers(
    name: str,
) -> None:
    values = resolved()
    del values[name]
    assert built(values) == config_of()


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
        ("eval_pass_k", 9),
        ("eval_pass_threshold", 0.9),
        ("early_stopping_patience", 3),
    ],
)
def test_what_a_job_asks_for_reaches_the_engine(name: str, value: Any) -> None:
    assert getattr(config_of(**{name: value}), name) == value


def test_the_environment_bounds_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs give the same bytes only with the same number of threads."""
    monkeypatch.setattr(plan, "_multiplications", lambda hidden_size: torch.get_num_threads())
    monkeypatch.setattr(plan.os, "sched_getaffinity", lambda pid: range(4))
    threads_before = torch.get_num_threads()
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert probe_threads(16) == 4
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert probe_threads(16) == 2
    finally:
        torch.set_num_threads(threads_before)
