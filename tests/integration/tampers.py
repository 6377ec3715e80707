"""What tests do to a trainer process before it runs: deaths at chosen points, and injected bugs."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.store import checkpoints
from tests.sampler_bugs import Detached, MergedInPlace, Stale
from worker import plan, train
from worker.grpo import checkpoint, trainer
from worker.train import Run


def die() -> None:
    """As `kill -9` does: no handler, no cleanup, nothing flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function: Callable[..., Any], *, after: bool, call: int = 1) -> Callable[..., Any]:
    """The function, with death before or after its n-th call."""
    called = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal called
        called += 1
        if called == call and not after:
            die()
        result = function(*args, **kwargs)
        if called == call:
            die()
        return result

    return deadly


@dataclass(frozen=True)
class KillIn:
    """Death at the `call`-th word of progress of a phase while `step` is under way.

    What the steps before have left to write is written by then, unless it is to be cut off.
    """

    phase: str
    step: int
    call: int
    cuts_writes: bool = False

    def __call__(self) -> None:
        tell, told = Run.tell, 0

        def deadly(run: Run, phase: str, done: int, total: int) -> None:
            nonlocal told
            tell(run, phase, done, total)
            told += phase == self.phase and run.trainer.counts.step == self.step - 1
            if told == self.call:
                if not self.cuts_writes:
                    run.reporter.wait()
                die()

        Run.tell = deadly


@dataclass(frozen=True)
class KillInUpdate:
    """Death while an update of a step is computed: those before it have moved the adapter."""

    update: int
    step: int
    num_updates: int

    def __call__(self) -> None:
        tell = Run.tell

        def deadly(run: Run, phase: str, done: int, total: int) -> None:
            tell(run, phase, done, total)
            passes_before = (self.update - 1) * total // self.num_updates
            is_in_it = phase == "training" and done > passes_before
            if is_in_it and run.trainer.counts.step == self.step - 1:
                run.reporter.wait()
                die()

        Run.tell = deadly


# A run saves twice: death at its second save leaves a state to resume from, and one that is torn.


def kill_while_the_state_is_written() -> None:
    """The tensors are on the disk, the JSON that makes them whole is not."""
    checkpoint.save_file = dying(checkpoint.save_file, after=True, call=2)


def kill_before_the_row() -> None:
    """The folder is published, the row that names it is not written."""
    checkpoints.put = dying(checkpoints.put, after=False, call=2)


def kill_before_the_commit() -> None:
    """The row is written and its transaction is not committed."""
    checkpoints.put = dying(checkpoints.put, after=True, call=2)


def kill_before_the_outcome() -> None:
    """Everything is saved, and nobody was told."""
    train.verdict = dying(train.verdict, after=False)


def one_thread() -> None:
    """Tiny tensors gain nothing from more, and two threads on a busy machine stall each other."""
    torch.set_num_threads(1)
    plan.probe_threads = lambda hidden_size: 1


def two_threads() -> None:
    """As on a machine with more cores: sums are then added up in other parts."""
    plan.probe_threads = lambda hidden_size: 2


@dataclass(frozen=True)
class DecidesNothing:
    """A resume that asked the machine again would compute other bits: the stored number counts."""

    num_threads_before: int = 1
    num_threads: int = 1

    def __call__(self) -> None:
        torch.set_num_threads(self.num_threads_before)

        def asked(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("a resumed attempt decided what the first one had stored")

        plan.probe_threads = plan.micro_batch_tokens = plan.probe_completion_tokens = asked
        finish = Run.finish_step

        def checked(run: Run, *args: Any) -> None:
            assert torch.get_num_threads() == self.num_threads
            finish(run, *args)

        Run.finish_step = checked


@dataclass(frozen=True)
class BaseChangesIn:
    """A weight of the base is written to while a step trains."""

    step: int

    def __call__(self) -> None:
        tell = Run.tell

        def writes(run: Run, phase: str, done: int, total: int) -> None:
            tell(run, phase, done, total)
            if phase == "training" and run.trainer.counts.step == self.step - 1:
                with torch.no_grad():
                    next(p for p in run.policy.base.parameters() if not p.requires_grad).add_(1e-3)

        Run.tell = writes


@dataclass(frozen=True)
class StateOfAnotherRun:
    """The training state of a step is whole, and its configuration is not the job's."""

    step: int

    def __call__(self) -> None:
        load = trainer.load_state

        def other(folder: Path, *, expected: dict[str, Any]) -> Any:
            is_other = folder.parent.name == f"step-{self.step}"
            return load(folder, expected=expected | {"config.seed": -1} if is_other else expected)

        trainer.load_state = other


def sampler_without_the_adapter() -> None:
    train.HfSampler = Detached


def sampler_with_a_stale_adapter() -> None:
    train.HfSampler = Stale


def sampler_with_a_merged_base() -> None:
    train.HfSampler = MergedInPlace


def gradients_that_are_infinite() -> None:
    build = Run.build

    def broken(run: Run) -> None:
        build(run)
        for parameter in run.policy.trainable.values():
            parameter.register_hook(lambda gradient: gradient * torch.inf)

    Run.build = broken
