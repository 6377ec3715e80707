"""A run that was stopped and resumed is, bit for bit, the run that was not."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.grpo.tiny import digit_share, disturb, grader, tiny_policy, tiny_trainer
from worker.grpo.errors import Interrupted, InvalidCheckpoint
from worker.grpo.hooks import Hooks
from worker.grpo.trainer import Trainer
from worker.grpo.types import Graded, Phase, Prompt, Rollout, StepResult

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


@pytest.mark.parametrize("stop_after", range(3))
def test_saved_after_any_step(
    whole: tuple[list[StepResult], str], stop_after: int, tmp_path: Path
) -> None:
    first = tiny_trainer(**RUN)
    before = []
    for result in first.steps():
        before.append(result)
        if result.step == stop_after:
            first.save(tmp_path)
            break
    second = resumed(tmp_path)
    after = list(second.steps())
    assert rows(before + after) == rows(whole[0])
    assert second.policy.adapter_fingerprint() == whole[1]


class StopAt:
    """Interrupts at the n-th question asked in a phase of a step."""

    def __init__(self, phase: Phase, question: int) -> None:
        self.phase, self.question = phase, question
        self.current: Phase = "sampling"
        self.is_armed = False
        self.asked = 0

    def progress(self, phase: Phase, done: int, total: int) -> None:
        self.current = phase

    def interrupt(self) -> None:
        if self.is_armed and self.current == self.phase:
            self.asked += 1
            if self.asked == self.question:
                raise Interrupted


def slow(stop: StopAt) -> Callable[[Prompt, Rollout], Future[Graded]]:
    """A grade function that leaves its last grades to be waited for."""
    grade_now = grader(digit_share)

    def grade(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        future: Future[Graded] = Future()
        if stop.phase != "grading" or not stop.is_armed:
            future.set_result(grade_now(prompt, rollout).result())
        return future

    return grade


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
