"""The sampler gate: each known way to sample another policy ends the run within one step."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.sampler_bugs import Detached, MergedInPlace, MergedTwice, Stale, StaleAndUnaware
from tests.unit.grpo.tiny import EOS, disturb, tiny_llama, tiny_policy, tiny_trainer
from worker.grpo import decode
from worker.grpo.errors import Interrupted, SamplerDesync
from worker.grpo.fused import FusedDecoder
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import LoraSettings, Policy
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


BUGS = {
    Detached: "or with none",
    Stale: "another adapter",
    StaleAndUnaware: "does not sample the policy",
    MergedInPlace: "base model's weights have changed",
    MergedTwice: "does not sample the policy",
}


def put_in(trainer: Trainer, sampler: HfSampler) -> None:
    trainer.sampler = trainer.collector.sampler = trainer.gate.sampler = sampler
    trainer.evaluator = replace(trainer.evaluator, sampler=sampler)


def trainer_with(sampler_class: type[HfSampler], *, noise: float = 0.0, **changes: Any) -> Trainer:
    policy = tiny_policy(noise=noise)
    trainer = tiny_trainer(policy=policy, **RUN | changes)
    put_in(trainer, sampler_class(policy, eos_ids=[EOS]))
    return trainer


@pytest.mark.parametrize("noise", [0.0, 0.05], ids=["fresh", "trained"])
@pytest.mark.parametrize("sampler_class", BUGS)
def test_a_bug_ends_the_run_before_its_first_update(
    sampler_class: type[HfSampler], noise: float
) -> None:
    trainer = trainer_with(sampler_class, noise=noise)
    fingerprint = trainer.policy.adapter_fingerprint()
    with pytest.raises(SamplerDesync, match=BUGS[sampler_class]):
        next(trainer.steps())
    assert trainer.policy.adapter_fingerprint() == fingerprint


@pytest.mark.parametrize("num_held_out", [0, 2])
@pytest.mark.parametrize("sampler_class", BUGS)
def test_a_bug_that_comes_later_ends_the_run_within_one_step(
    sampler_class: type[HfSampler], num_held_out: int
) -> None:
    trainer = trainer_with(HfSampler, sampler_check_interval=1, num_held_out=num_held_out)
    steps = trainer.steps()
    while next(steps).step < 2:
        pass
    put_in(trainer, sampler_class(trainer.policy, eos_ids=[EOS]))
    if sampler_class in (Stale, StaleAndUnaware):
        assert next(steps).step == 3  # Its adapter is the right one until the next update.
    with pytest.raises(SamplerDesync, match=BUGS[sampler_class]):
        next(steps)


def test_a_stale_adapter_is_seen_at_every_step_whatever_the_interval() -> None:
    trainer = trainer_with(HfSampler, sampler_check_interval=100)
    steps = trainer.steps()
    assert [next(steps).step for _ in range(2)] == [1, 2]
    put_in(trainer, Stale(trainer.policy, eos_ids=[EOS]))
    assert next(steps).step == 3  # Its adapter is the right one until the next update.
    with pytest.raises(SamplerDesync, match="another adapter"):
        next(steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_stale_copy_of_the_weights_is_seen_whatever_the_interval(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn with is a copy: its fingerprint is that of when it was made."""
    policy = Policy(tiny_llama().to(dtype), LoraSettings(rank=8, alpha=16), seed=0)
    run = RUN | {"total_steps": 6, "sampler_check_interval": 100}
    steps = tiny_trainer(policy=policy, **run).steps()
    assert next(steps).step == 1
    copies: list[FusedDecoder] = []

    def memoised(policy: Policy) -> FusedDecoder:
        copies.extend([] if copies else [FusedDecoder(policy)])
        return copies[0]

    monkeypatch.setattr(decode, "FusedDecoder", memoised)
    assert next(steps).step == 2
    with pytest.raises(SamplerDesync, match="another adapter"):
        next(steps)
    assert len(copies) == 1


@pytest.mark.parametrize("sampler_class", [one for one in BUGS if one is not StaleAndUnaware])
def test_the_last_step_is_no_exception(sampler_class: type[HfSampler]) -> None:
    """Its evaluation draws with its updates, its rollouts are seen closely at any interval."""
    trainer = trainer_with(HfSampler, num_held_out=2, sampler_check_interval=100)
    steps = trainer.steps()
    while next(steps).step < 3:
        pass
    put_in(trainer, sampler_class(trainer.policy, eos_ids=[EOS]))
    with pytest.raises(SamplerDesync, match=BUGS[sampler_class]):
        next(steps)
    assert trainer.counts.step == 3


def test_tokens_that_nobody_drew_are_not_compared() -> None:
    """A tool's answer inside a completion has no log-probs of the sampler's."""
    trainer = trainer_with(HfSampler)
    sample = trainer.sampler.sample

    def with_tools(*args: Any, **kwargs: Any) -> list[list[Rollout]]:
        groups = sample(*args, **kwargs)
        for rollout in (one for group in groups for one in group):
            rollout.loss_mask[0], rollout.sampler_logprobs[0] = False, -99.0
        return groups

    trainer.sampler.sample = with_tools
    result = next(trainer.steps())
    assert result.metrics["sampling/sampling_logp_difference/max"] < 1e-5


def test_the_rehearsal_leaves_no_trace() -> None:
    trainer = trainer_with(HfSampler, noise=0.05)
    before = trainer.policy.adapter_fingerprint(), trainer.policy.base_checksum()
    random_state = torch.get_rng_state()
    trainer.gate.rehearse(trainer.train_prompts, interrupt=lambda: None)
    after = trainer.policy.adapter_fingerprint(), trainer.policy.base_checksum()
    assert after == before
    assert torch.get_rng_state().equal(random_state)


def test_an_interrupted_rehearsal_leaves_no_trace_and_is_held_again() -> None:
    trainer = trainer_with(HfSampler)
    before = trainer.policy.adapter_fingerprint()

    def interrupt() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        trainer.gate.rehearse(trainer.train_prompts, interrupt=interrupt)
    assert trainer.policy.adapter_fingerprint() == before
    assert not trainer.gate.is_rehearsed


def test_an_adapter_that_does_not_move_ends_the_run() -> None:
    trainer = trainer_with(HfSampler)
    for group in trainer.updater.optimizer.param_groups:
        group["params"] = [p.detach().clone().requires_grad_() for p in group["params"]]
    with pytest.raises(SamplerDesync, match="has not moved"):
        next(trainer.steps())


def test_it_is_checked_early_then_every_interval_and_after_a_restart() -> None:
    trainer = trainer_with(HfSampler, total_steps=5, sampler_check_interval=4)
    name = "sampling/sampling_logp_difference/mean"
    checked = {r.step: r.metrics[name] for r in trainer.steps() if name in r.metrics}
    assert checked.keys() == {1, 2, 4, 5}
    assert not trainer.gate.is_due(6)
    assert max(checked.values()) < 1e-5
    trainer.gate.restart()
    assert trainer.gate.is_due(6)


def test_a_step_without_signal_is_no_reason_to_move() -> None:
    trainer = trainer_with(HfSampler, reward=lambda prompt, rollout: 1.0)
    disturb(trainer.policy, 0.0)
    assert [result.step for result in trainer.steps()] == [1, 2, 3, 4]
