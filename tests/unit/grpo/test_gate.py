"""The sampler gate: each known way to sample another policy ends the run within one step."""

import copy
from typing import Any

import pytest

from tests.unit.grpo.tiny import EOS, disturb, tiny_policy, tiny_trainer
from worker.grpo.errors import SamplerDesync
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.trainer import Trainer
from worker.grpo.types import Rollout

RUN = {
    "total_steps": 4,
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 5,
    "num_held_out": 0,
    "sampler_check_interval": 2,
}


class Detached(HfSampler):
    """Bug: the adapter is not attached where completions are drawn."""

    def sample(self, *args: Any, **kwargs: Any) -> list[list[Rollout]]:
        with self.policy.reference():
            return super().sample(*args, **kwargs)


class Doubled(HfSampler):
    """Bug: the sampler's base has the adapter merged into it, and applies it on top."""

    def sample(self, *args: Any, **kwargs: Any) -> list[list[Rollout]]:
        policy = copy.deepcopy(self.policy)
        for layer in policy.base.model.layers:
            for name in ("q_proj", "v_proj"):
                module = getattr(layer.self_attn, name)
                module.base_layer.weight.add_(module.get_delta_weight("default"))
        return HfSampler(policy, eos_ids=self.eos_ids).sample(*args, **kwargs)


def trainer_with(sampler_class: type[HfSampler], **changes: Any) -> Trainer:
    policy = tiny_policy(noise=0.05)
    trainer = tiny_trainer(policy=policy, **RUN | changes)
    sampler = sampler_class(policy, eos_ids=[EOS])
    trainer.sampler = trainer.collector.sampler = trainer.gate.sampler = sampler
    return trainer


@pytest.mark.parametrize("sampler_class", [Detached, Doubled])
def test_other_logprobs_end_the_run_at_the_first_step(sampler_class: type[HfSampler]) -> None:
    trainer = trainer_with(sampler_class)
    fingerprint = trainer.policy.adapter_fingerprint()
    with pytest.raises(SamplerDesync, match="does not sample the policy"):
        next(trainer.steps())
    assert trainer.policy.adapter_fingerprint() == fingerprint


def test_a_stale_adapter_ends_the_run_at_the_next_check() -> None:
    """A copy of the policy agrees at first; one update later it is yesterday's."""
    trainer = trainer_with(HfSampler)
    trainer.sampler.policy = copy.deepcopy(trainer.policy)
    steps = trainer.steps()
    assert next(steps).step == 1
    with pytest.raises(SamplerDesync, match="another adapter"):
        next(steps)


def test_a_merged_base_ends_the_run_at_the_next_check() -> None:
    trainer = trainer_with(HfSampler)
    steps = trainer.steps()
    next(steps)
    trainer.policy.model.merge_adapter()
    with pytest.raises(SamplerDesync, match="base model's weights have changed"):
        next(steps)


def test_an_adapter_that_does_not_move_ends_the_run() -> None:
    trainer = trainer_with(HfSampler)
    for group in trainer.updater.optimizer.param_groups:
        group["params"] = [p.detach().clone().requires_grad_() for p in group["params"]]
    steps = trainer.steps()
    next(steps)
    with pytest.raises(SamplerDesync, match="has not moved"):
        next(steps)


def test_a_fresh_adapter_that_is_not_attached_ends_the_run_after_its_first_update() -> None:
    policy = tiny_policy()
    trainer = tiny_trainer(policy=policy, **RUN | {"sampler_check_interval": 100})
    sampler = Detached(policy, eos_ids=[EOS])
    trainer.sampler = trainer.collector.sampler = trainer.gate.sampler = sampler
    steps = trainer.steps()
    assert next(steps).step == 1
    with pytest.raises(SamplerDesync, match="does not sample the policy"):
        next(steps)


def test_it_is_checked_early_then_every_interval_and_after_a_restart() -> None:
    trainer = trainer_with(HfSampler, total_steps=5, sampler_check_interval=4)
    name = "sampling/sampling_logp_difference/mean"
    checked = {r.step: r.metrics[name] for r in trainer.steps() if name in r.metrics}
    assert checked.keys() == {1, 2, 4}
    assert not trainer.gate.is_due(6)
    assert max(checked.values()) < 1e-5
    trainer.gate.restart()
    assert trainer.gate.is_due(6)


def test_a_step_without_signal_is_no_reason_to_move() -> None:
    trainer = trainer_with(HfSampler, reward=lambda prompt, rollout: 1.0)
    disturb(trainer.policy, 0.0)
    assert [result.step for result in trainer.steps()] == [1, 2, 3, 4]
