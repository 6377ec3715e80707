"""Memory that runs out costs time: the run goes on with less at a time, and comes to the same."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from tests.unit.grpo.tiny import digit_share, tiny_policy, tiny_trainer
from worker.grpo import decode, update
from worker.grpo.errors import OutOfMemory
from worker.grpo.fused import fits
from worker.grpo.hooks import Hooks
from worker.grpo.memory import is_out_of_memory, largest_that_fits
from worker.grpo.trainer import Trainer
from worker.grpo.types import Prompt, Rollout, StepResult

TORCHS_WORDS = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4194304 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError(TORCHS_WORDS),
    MemoryError,
]
STEPS = 3


def limit_passes(
    monkeypatch: pytest.MonkeyPatch, most: int, error: Callable[[], Exception]
) -> None:
    """Have every training pass over more than `most` tokens run out of memory."""
    score = update.score

    def limited(policy: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if len(batch.row.ids_N) > most:
            raise error()
        return score(policy, batch, *args, **kwargs)

    monkeypatch.setattr(update, "score", limited)


def limit_rows(
    monkeypatch: pytest.MonkeyPatch, most: int, error: Callable[[], Exception], *, after: int = 0
) -> None:
    """Have sampling more than `most` rows at a time run out of memory, `after` tokens in."""
    for kind in (decode.DecodeBatch, decode.FusedBatch):
        monkeypatch.setattr(kind, "advance", limited_to(most, error, kind.advance, after))


def limited_to(most: int, error: Callable[[], Exception], advance: Any, after: int) -> Any:
    def limited(batch: Any, ids_B: Tensor) -> None:
        batch.num_advanced = getattr(batch, "num_advanced", 0) + 1
        if len(ids_B) > most and batch.num_advanced > after:
            raise error()
        advance(batch, ids_B)

    return limited


def exact_trainer(**changes: Any) -> Trainer:
    """In float64: Adam makes of a gradient near 0 a step of full size, of rounding too."""
    policy = tiny_policy()
    policy.model.double()
    return tiny_trainer(policy=policy, **changes)


def trained(trainer: Trainer) -> tuple[dict[str, Tensor], list[StepResult]]:
    results = list(trainer.steps())
    return {n: p.detach().clone() for n, p in trainer.policy.trainable.items()}, results


def drawn(results: list[StepResult]) -> list[Any]:
    return [
        [(r.completion_ids, g.advantages) for r in g.rollouts] for s in results for g in s.groups
    ]


def assert_same(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    assert drawn(ours[1]) == drawn(theirs[1])
    for name, weights in theirs[0].items():
        torch.testing.assert_close(ours[0][name], weights, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_training_that_does_not_fit_comes_to_the_same_adapter(
    error: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"total_steps": STEPS, "updates_per_rollout": 2, "kl_coef": 0.01}
    undisturbed = trained(exact_trainer(**asked))
    said: list[str] = []
    limit_passes(monkeypatch, 60, error)
    trainer = exact_trainer(**asked, hooks=Hooks(note=said.append))
    disturbed = trained(trainer)

    assert_same(disturbed, undisturbed)
    assert trainer.memory.budgets.num_halvings == len(said) > 0
    assert "Memory ran out while training" in said[0]
    last = disturbed[1][-1].metrics
    assert last["memory/micro_batch_tokens"] == trainer.memory.budgets.micro_batch_tokens <= 60
    assert disturbed[1][1].metrics["memory/num_halvings"] == last["memory/num_halvings"]


@pytest.mark.parametrize("updates_per_rollout", [1, 2])
def test_memory_that_runs_out_late_in_a_step_that_is_not_evaluated(
    updates_per_rollout: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last update's second pass: a gradient is half there, an update may be made."""
    asked: dict[str, Any] = {
        "total_steps": STEPS,
        "updates_per_rollout": updates_per_rollout,
        "micro_batch_tokens": 128,
    }
    undisturbed = trained(exact_trainer(**asked))
    progress: list[tuple[str, float]] = []
    hooks = Hooks(progress=lambda phase, done, total: progress.append((phase, done / total)))
    trainer = exact_trainer(**asked, hooks=hooks)
    score, failed_in = update.score, []

    def limited(policy: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        phase, share = progress[-1]
        is_late = phase == "training" and share > 1 - 1 / updates_per_rollout
        if is_late and trainer.counts.step == 1 and len(batch.row.ids_N) > 60:
            failed_in.append(share)
            raise ERRORS[0]()
        return score(policy, batch, *args, **kwargs)

    monkeypatch.setattr(update, "score", limited)
    assert_same(trained(trainer), undisturbed)
    assert trainer.memory.budgets.num_halvings == len(failed_in) > 0


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_sampling_that_does_not_fit_draws_the_same(
    error: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = trained(exact_trainer(total_steps=STEPS))
    graded: list[int] = []

    def reward(prompt: Prompt, rollout: Rollout) -> float:
        graded.append(id(rollout))
        return digit_share(prompt, rollout)

    # Fewer rows than a group has: a group must be cut. Some rows have ended by then.
    limit_rows(monkeypatch, 3, error, after=2)
    trainer = exact_trainer(total_steps=STEPS, reward=reward)
    disturbed = trained(trainer)

    assert_same(disturbed, undisturbed)
    assert trainer.memory.budgets.num_halvings > 0
    num_drawn = sum(len(g.rollouts) for s in disturbed[1] for g in s.drawn)
    num_evaluated = sum(
        len(s.evaluation.rollouts) + sum(map(len, s.evaluation.sampled))
        for s in disturbed[1]
        if s.evaluation
    )
    assert len(graded) == num_drawn + num_evaluated, "each completion is graded once"


@pytest.mark.parametrize("updates_per_rollout", [1, 2])
def test_memory_that_runs_out_behind_an_update_does_not_make_it_twice(
    updates_per_rollout: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = exact_trainer(total_steps=STEPS, updates_per_rollout=updates_per_rollout)
    applied = Mock(wraps=trainer.updater.apply)
    monkeypatch.setattr(trainer.updater, "apply", applied)
    steps = trainer.steps()
    assert [next(steps).step for _ in range(2)] == [0, 1]
    monkeypatch.setattr(trainer.gate, "check_updated", Mock(side_effect=ERRORS[0]()))
    with pytest.raises(torch.OutOfMemoryError):
        next(steps)
    assert applied.call_count == 2 * updates_per_rollout
    assert trainer.memory.budgets.num_halvings == 0


def test_a_resume_takes_up_the_smaller_budgets_and_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit_passes(monkeypatch, 60, ERRORS[0])
    limit_rows(monkeypatch, 5, ERRORS[0])
    whole, _ = trained(tiny_trainer(total_steps=STEPS))
    first = tiny_trainer(total_steps=STEPS)
    for result in first.steps():
        if result.step == 1:
            break
    first.save(tmp_path)
    second = tiny_trainer(total_steps=STEPS)
    second.restore(tmp_path)

    assert asdict(second.memory.budgets) == asdict(first.memory.budgets)
    assert second.memory.budgets.num_halvings > 0
    resumed, _ = trained(second)
    assert all(torch.equal(resumed[name], weights) for name, weights in whole.items())
    assert asdict(second.memory.budgets) == asdict(first.memory.budgets), "nothing is learned anew"


def test_sampling_that_does_not_fit_draws_the_same_with_the_decoder_of_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In fp32, where adapters are alike only if they are made of the very same groups."""
    undisturbed = tiny_trainer(num_held_out=0)
    assert fits(undisturbed.policy)
    expected = next(undisturbed.steps())
    limit_rows(monkeypatch, 3, ERRORS[1], after=2)
    trainer = tiny_trainer(num_held_out=0)
    found = next(trainer.steps())

    assert trainer.memory.budgets.num_halvings > 0
    assert drawn([found]) == drawn([expected])
    again = tiny_trainer(num_held_out=0)
    work = again.updater.prepare(found.groups)
    again.updater.run(work, step=1, interrupt=lambda: None, progress=lambda: None)
    assert again.policy.adapter_fingerprint() == trainer.policy.adapter_fingerprint()


def test_one_sequence_that_does_not_fit_ends_the_run_with_the_number_that_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit_passes(monkeypatch, 7, ERRORS[1])
    trainer = tiny_trainer(total_steps=STEPS)
    before = {n: p.detach().clone() for n, p in trainer.policy.trainable.items()}
    with pytest.raises(OutOfMemory, match=r"single sequence of \d+ tokens .* One of [4-7] tokens"):
        trained(trainer)
    after = trainer.policy.trainable
    assert all(torch.equal(after[name], weights) for name, weights in before.items())


def test_one_row_that_cannot_be_sampled_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_rows(monkeypatch, 0, ERRORS[2])
    with pytest.raises(OutOfMemory, match="Sampling a single sequence of"):
        trained(tiny_trainer(total_steps=STEPS))


def test_other_errors_are_what_they_are() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
    assert largest_that_fits(lambda n: n <= 30, 100) == 25
    assert largest_that_fits(lambda n: False, 100) == 0


UNDER_A_LIMIT = """
    import resource, sys
    import torch
    from tests.unit.grpo.tiny import tiny_policy, tiny_trainer

    torch.set_num_threads(1)
    policy = tiny_policy()
    policy.model.double()
    trainer = tiny_trainer(
        policy=policy,
        total_steps=1, num_held_out=0, batch_size=16, group_size=32, max_completion_tokens=64,
        micro_batch_tokens=65536,
    )
    headroom = int(sys.argv[1])
    if headroom:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + headroom, used + headroom))
    list(trainer.steps())
    weights = [p.detach().flatten() for p in trainer.policy.trainable.values()]
    print(trainer.memory.budgets.num_halvings, *torch.cat(weights).tolist())
"""


@pytest.mark.slow
def test_a_process_whose_memory_is_limited_trains_the_same_adapter() -> None:
    """The real allocator fails, wherever it happens to be then."""
    found = []
    for headroom in (0, 96 << 20):
        command = [sys.executable, "-c", textwrap.dedent(UNDER_A_LIMIT), str(headroom)]
        said = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3]
        ).stdout.split()
        found.append((int(said[0]), torch.tensor([float(number) for number in said[1:]])))
    (whole, expected), (halvings, limited) = found
    assert whole == 0 < halvings
    torch.testing.assert_close(limited, expected, rtol=1e-6, atol=1e-6)
