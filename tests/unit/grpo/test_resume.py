"""A run that was stopped and resumed is, bit for bit, the run that was not."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tests.unit.grpo.stops import StopAt, slow
from tests.unit.grpo.tiny import digit_share, disturb, tiny_policy, tiny_trainer
from worker.grpo.checkpoint import capture
from worker.grpo.errors import Interrupted, InvalidCheckpoint
from worker.grpo.hooks import Hooks
from worker.grpo.trainer import Trainer
from worker.grpo.types import Phase, Prompt, Rollout, StepResult

RUN = {
    "total_steps": 3,
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 5,
    "eval_interval": 2,
    "updates_per_rollout": 2,
    "kl_coef": 0.05,
    "micro_batch_tokens": 32,
}
PHASES: list[Phase] = ["sampling", "grading", "training", "evaluating"]


def rows(results: list[StepResult]) -> list[tuple[int, dict[str, Any], Any]]:
    """Everything of each result but the clock."""
    return [
        (
            result.step,
            {
                name: value
                for name, value in result.metrics.items()
                # When the sampler is checked depends on when a process began.
                if not name.startswith(("time/", "step_time", "sampling/"))
            },
            result.evaluation and result.evaluation.rewards,
        )
        for result in results
    ]


@pytest.fixture(scope="module")
def whole() -> tuple[list[StepResult], str]:
    """The run that nothing stops, and the fingerprint it ends with."""
    trainer = tiny_trainer(**RUN)
    results = list(trainer.steps())
    return results, trainer.policy.adapter_fingerprint()


def resumed(folder: Path, **changes: Any) -> Trainer:
    """A new process's trainer: nothing in it but what the folder holds."""
    policy = tiny_policy()
    disturb(policy, 0.5)
    trainer = tiny_trainer(policy=policy, **RUN | changes)
    trainer.restore(folder)
    return trainer


def test_two_runs_are_the_same_run(whole: tuple[list[StepResult], str]) -> None:
    trainer = tiny_trainer(**RUN)
    assert rows(list(trainer.steps())) == rows(whole[0])
    assert trainer.policy.adapter_fingerprint() == whole[1]


def test_a_run_draws_from_no_generator_of_the_process(
    whole: tuple[list[StepResult], str],
) -> None:
    """What nothing is drawn from need not be saved: seeded anew all the time, the run is the same.

    Every stream is seeded by the run's seed and what is drawn (`worker.grpo.order`).
    """
    seeds = itertools.count()

    def reseed(*_: object) -> None:
        seed = next(seeds)
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)

    with torch.random.fork_rng():
        trainer = tiny_trainer(hooks=Hooks(interrupt=reseed, progress=reseed), **RUN)
        assert rows(list(trainer.steps())) == rows(whole[0])
    assert trainer.policy.adapter_fingerprint() == whole[1]
    assert next(seeds) > 100


def saved_after(trainer: Trainer, step: int, folder: Path) -> list[StepResult]:
    """Run up to a step and save; the results so far."""
    results = []
    for result in trainer.steps():
        results.append(result)
        if result.step == step:
            break
    trainer.save(folder)
    return results


@pytest.mark.parametrize("stop_after", range(3))
def test_saved_after_any_step(
    whole: tuple[list[StepResult], str], stop_after: int, tmp_path: Path
) -> None:
    first = tiny_trainer(**RUN)
    before = saved_after(first, stop_after, tmp_path)
    second = resumed(tmp_path)
    after = list(second.steps())
    assert rows(before + after) == rows(whole[0])
    assert second.policy.adapter_fingerprint() == whole[1]


def half_dead(prompt: Prompt, rollout: Rollout) -> float:
    return 0.0 if prompt.index % 2 else digit_share(prompt, rollout) + rollout.sample_index / 4


@pytest.mark.parametrize("stop_after", [1, 2])
def test_refills_move_the_cursor_and_a_resume_takes_it_up(stop_after: int, tmp_path: Path) -> None:
    run = RUN | {"dynamic_sampling": True, "max_refills": 4, "reward": half_dead}
    undisturbed = tiny_trainer(**run)
    expected = list(undisturbed.steps())
    assert undisturbed.counts.num_prompts > 3 * 2, "refills were needed"
    first = tiny_trainer(**run)
    before = saved_after(first, stop_after, tmp_path)
    policy = tiny_policy()
    disturb(policy, 0.5)
    second = tiny_trainer(policy=policy, **run)
    second.restore(tmp_path)
    assert second.counts == first.counts
    assert rows(before + list(second.steps())) == rows(expected)
    assert second.counts == undisturbed.counts
    assert second.policy.adapter_fingerprint() == undisturbed.policy.adapter_fingerprint()


@pytest.mark.parametrize("question", [1, 3])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("stop_in", [1, 3])
def test_interrupted_in_any_phase(
    whole: tuple[list[StepResult], str], phase: Phase, question: int, stop_in: int, tmp_path: Path
) -> None:
    stop = StopAt(phase, question)
    first = tiny_trainer(hooks=Hooks(stop.interrupt, stop.progress), **RUN | {"eval_interval": 1})
    first.collector.grade = slow(stop)
    steps = first.steps()
    before = [next(steps) for _ in range(stop_in)]
    start = first.policy.adapter_fingerprint()
    stop.is_armed = True
    with pytest.raises(Interrupted):
        next(steps)
    assert first.policy.adapter_fingerprint() == start
    first.save(tmp_path)

    second = resumed(tmp_path, eval_interval=1)
    after = list(second.steps())
    expected = [row[:1] for row in rows(whole[0])]
    assert [row[:1] for row in rows(before + after)] == expected
    assert second.policy.adapter_fingerprint() == whole[1]


@pytest.mark.parametrize("updates_per_rollout", [1, 2])
def test_interrupted_before_any_pass_of_a_step_that_is_not_evaluated(
    updates_per_rollout: int, tmp_path: Path
) -> None:
    """One update is made in one go and needs no copy to go back to; between two there is one."""
    changes = {"updates_per_rollout": updates_per_rollout, "total_steps": 4, "eval_interval": 9}
    run = RUN | changes
    whole = tiny_trainer(**run)
    expected = rows(list(whole.steps()))
    stop = StopAt("training", 1)
    trainer = tiny_trainer(hooks=Hooks(stop.interrupt, stop.progress), **run)
    steps = trainer.steps()
    before = [next(steps) for _ in range(3)]
    assert [result.step for result in before] == [0, 1, 2]
    state = trainer.policy.trainable, trainer.updater.optimizer
    start, stop.is_armed, num_interrupts = capture(*state), True, 0
    while True:
        stop.asked, stop.question = 0, num_interrupts + 1
        try:
            before.append(next(trainer.steps()))
        except Interrupted:
            num_interrupts += 1
        else:
            break
        assert trainer.counts.step == 2
        found = capture(*state)
        assert start.keys() == found.keys()
        assert all(start[name].equal(found[name]) for name in start)
    assert num_interrupts > 4 * updates_per_rollout
    trainer.save(tmp_path)
    second = resumed(tmp_path, **changes)
    assert rows(before + list(second.steps())) == expected
    assert second.policy.adapter_fingerprint() == whole.policy.adapter_fingerprint()


def test_interrupted_before_step_0_is_done(tmp_path: Path) -> None:
    stop = StopAt("evaluating", 1)
    stop.is_armed = True
    first = tiny_trainer(hooks=Hooks(stop.interrupt, stop.progress), **RUN)
    with pytest.raises(Interrupted):
        next(first.steps())
    first.save(tmp_path)
    assert next(resumed(tmp_path).steps()).step == 0


def test_the_same_trainer_can_go_on_after_an_interrupt(
    whole: tuple[list[StepResult], str],
) -> None:
    stop = StopAt("training", 2)
    trainer = tiny_trainer(hooks=Hooks(stop.interrupt, stop.progress), **RUN)
    steps = trainer.steps()
    before = [next(steps), next(steps)]
    stop.is_armed = True
    with pytest.raises(Interrupted):
        next(steps)
    assert rows(before + list(trainer.steps())) == rows(whole[0])


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    trainer = tiny_trainer(**RUN)
    trainer.save(tmp_path)
    with pytest.raises(InvalidCheckpoint, match=r"its config\.learning_rate is 0\.01, not 0\.02"):
        resumed(tmp_path, learning_rate=2e-2)
    other = tiny_trainer(**RUN)
    other.gate.base_checksum = "0"
    with pytest.raises(InvalidCheckpoint, match="its base_checksum"):
        other.restore(tmp_path)


def rewrite_state(folder: Path, **changes: Any) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | changes))


def test_a_state_of_an_earlier_release_is_taken_up(
    whole: tuple[list[StepResult], str], tmp_path: Path
) -> None:
    """It lacks a number of the configuration that is newer, and has a count that is gone."""
    first = tiny_trainer(**RUN)
    before = saved_after(first, 1, tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    del state["config.sampler_correction"], state["counts"]["num_evaluations_since_best"]
    state["counts"]["lowest_reward"] = 0.0
    (tmp_path / "state.json").write_text(json.dumps(state))
    second = resumed(tmp_path)
    assert rows(before + list(second.steps())) == rows(whole[0])
    assert second.policy.adapter_fingerprint() == whole[1]


def test_budgets_of_another_release_are_taken_up(tmp_path: Path) -> None:
    """One of them is gone here, and one had not been there yet."""
    tiny_trainer(**RUN).save(tmp_path)
    rewrite_state(tmp_path, memory={"micro_batch_tokens": 16, "num_halvings": 1, "row_tokens": 3})
    second = resumed(tmp_path)
    assert second.memory.budgets.micro_batch_tokens == 16
    assert second.memory.budgets.num_halvings == 1
    assert second.memory.budgets.cache_tokens == second.sampler.max_cache_tokens > 0


@pytest.mark.parametrize("name", ["counts", "memory"])
def test_a_state_that_says_something_else_is_refused_and_nothing_has_changed(
    name: str, tmp_path: Path
) -> None:
    tiny_trainer(**RUN).save(tmp_path)
    rewrite_state(tmp_path, **{name: "lost"})
    trainer = tiny_trainer(policy=tiny_policy(noise=0.5), **RUN)
    fingerprint, counts = trainer.policy.adapter_fingerprint(), trainer.counts
    with pytest.raises(InvalidCheckpoint, match="does not say where its run was"):
        trainer.restore(tmp_path)
    assert trainer.policy.adapter_fingerprint() == fingerprint
    assert trainer.counts == counts


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
def test_a_torn_state_is_refused(name: str, tmp_path: Path) -> None:
    trainer = tiny_trainer(**RUN)
    trainer.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    with pytest.raises(InvalidCheckpoint, match="no whole training state"):
        trainer.restore(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InvalidCheckpoint, match="no whole training state"):
        trainer.restore(tmp_path)


def test_torchs_own_random_state_is_part_of_it(tmp_path: Path) -> None:
    trainer = tiny_trainer(**RUN)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        trainer.save(tmp_path)
        expected = torch.rand(3)
        torch.manual_seed(12)
        trainer.restore(tmp_path)
        assert torch.rand(3).equal(expected)
