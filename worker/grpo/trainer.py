"""The GRPO loop: sample groups, grade them, weigh log-probs with advantages, update, repeat.

DeepSeekMath, algorithm 1, https://arxiv.org/abs/2402.03300.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from worker.grpo.aggregate import with_advantages
from worker.grpo.checkpoint import capture, load_state, reinstate, save_state
from worker.grpo.collect import Collected, Collector
from worker.grpo.component_metrics import component_metrics
from worker.grpo.config import GrpoConfig
from worker.grpo.counts import Counts
from worker.grpo.errors import InvalidCheckpoint, InvalidConfig, NonFiniteGradients
from worker.grpo.evaluate import Evaluator
from worker.grpo.gate import NUM_REHEARSED, SamplerGate
from worker.grpo.grading import GradeFn, GradeGroupFn
from worker.grpo.hooks import Hooks, Stopwatch
from worker.grpo.memory import Memory
from worker.grpo.metrics import (
    Metrics,
    evaluation_metrics,
    grading_metrics,
    group_metrics,
    rollout_metrics,
    update_metrics,
)
from worker.grpo.passes import Passes
from worker.grpo.policy import Policy
from worker.grpo.rollout import Sampler
from worker.grpo.rotation import check_room
from worker.grpo.types import Evaluation, Group, Prompt, StepResult
from worker.grpo.undo import Undo
from worker.grpo.update import Update, Updater


class Trainer:
    """One run: `steps()` yields a result a step, `save()` writes what a resume needs."""

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        config: GrpoConfig,
        train_prompts: Sequence[Prompt],
        held_out_prompts: Sequence[Prompt],
        *,
        grade: GradeFn,
        grade_group: GradeGroupFn | None = None,
        grades_alone: bool = False,
        hooks: Hooks | None = None,
    ) -> None:
        """With `grade_group` siblings are graded by it, in evaluations too unless `grades_alone`.

        `grades_alone` says that `grade` needs no siblings to give a number that means something.
        """
        if not train_prompts:
            raise InvalidConfig("There are no prompts to train on.")
        all_prompts = [*train_prompts, *held_out_prompts]
        check_room(policy.base.config, all_prompts, config.max_completion_tokens)
        self.policy = policy
        self.sampler = sampler
        self.config = config
        self.train_prompts = train_prompts
        self.held_out_prompts = held_out_prompts
        self.hooks = hooks or Hooks()
        self.memory = Memory(sampler, config.micro_batch_tokens, note=self.hooks.note)
        self.collector = Collector(
            self.memory.sampler, config, train_prompts, grade, self.hooks, grade_group=grade_group
        )
        self.updater = Updater(policy, config)
        self.gate = SamplerGate(policy, self.memory.sampler, config)
        self.evaluator = Evaluator(
            self.memory.sampler,
            config,
            held_out_prompts,
            grade,
            self.hooks.interrupt,
            partial(self.hooks.progress, "evaluating"),
            grade_group=None if grades_alone else grade_group,
        )
        self.passes = Passes(self.memory, self.updater, self.gate, self.hooks.interrupt)
        self.counts = Counts(step=-1 if held_out_prompts else 0)

    def steps(self) -> Iterator[StepResult]:
        """Yield step 0 (an evaluation before any update), then steps 1 .. total_steps.

        After `restore` it goes on behind the last step that had been yielded. A step is finished
        when it is yielded; interrupted before that, it leaves no trace and is drawn again. The
        last step has an evaluation, and so has one after which `is_stopped_early`. Without
        held-out prompts there is no step 0.
        """
        while self.counts.step < self.config.total_steps and not self.is_stopped_early:
            step = self.counts.step + 1
            with Undo(self.policy, self.updater.optimizer, self.gate) as undo:
                result = self._step(step, undo) if step > 0 else self._step_0()
            yield result

    @property
    def is_stopped_early(self) -> bool:
        """Whether evaluations have stopped getting better for as long as the run was to wait."""
        patience = self.config.early_stopping_patience
        return patience is not None and self.counts.num_evaluations_since_best >= patience

    def _step_0(self) -> StepResult:
        """What the policy gets before any update: what later evaluations are compared with."""
        stopwatch = Stopwatch()
        self._rehearse_gate()
        evaluation = self._evaluate(stopwatch)
        return self._booked(replace(self.counts, step=0), {}, [], [], evaluation, stopwatch)

    def _step(self, step: int, undo: Undo) -> StepResult:
        """Lines 5 to 11 of the algorithm, and an evaluation when one is due."""
        stopwatch = Stopwatch()
        self._rehearse_gate()
        # Lines 5 to 8 overlap: a rollout is graded while others are still being drawn.
        collected = self.collector.collect(
            step=step, cursor=self.counts.num_prompts, stopwatch=stopwatch
        )
        groups = with_advantages(collected.groups, self.config)
        with stopwatch.timing("training"):
            checked = self.passes.over(groups, lambda: self.gate.check(groups, step=step))
            updates = self.passes.over(groups, lambda: self._update(step, groups, undo))
            # Not among what is done again: the adapter has moved.
            self.gate.check_updated(updates)
            self._check_finite(step, updates)
        evaluation = self._evaluate(stopwatch) if self._is_evaluated(step) else None
        counts = self.counts.trained(
            step,
            num_prompts=collected.num_prompts,
            num_tokens=collected.num_tokens,
            num_nonfinite=num_nonfinite(updates),
        )
        metrics = checked | self._metrics(counts, collected, groups, updates)
        return self._booked(counts, metrics, groups, collected.drawn, evaluation, stopwatch)

    def _rehearse_gate(self) -> None:
        self.passes.over_prompts(
            self.train_prompts[:NUM_REHEARSED],
            lambda: self.gate.rehearse(self.train_prompts, interrupt=self.hooks.interrupt),
        )

    def _update(self, step: int, groups: Sequence[Group], undo: Undo) -> list[Update]:
        """Lines 10 and 11: move the adapter; once it has moved for good nothing here may fail."""
        undo.back()  # An earlier try that memory cut short may have moved it already.
        work = self.updater.prepare(groups)
        # A single update moves nothing before all passes are done, and from the second on it moves
        # the moments where they are, without new memory: done again, it finds what it found.
        is_single = self.config.updates_per_rollout == 1 and self.updater.optimizer.state
        if not is_single or self._is_evaluated(step):
            undo.keep()
        done, total = count(1), len(work.batches) * self.config.updates_per_rollout
        self.hooks.progress("training", 0, total)
        return self.updater.run(
            work,
            step=step,
            interrupt=self.hooks.interrupt,
            progress=lambda: self.hooks.progress("training", next(done), total),
        )

    def _check_finite(self, step: int, updates: Sequence[Update]) -> None:
        """Raise NonFiniteGradients when the run has had to skip too many updates."""
        total = self.counts.num_nonfinite_updates + num_nonfinite(updates)
        if total > self.config.max_nonfinite_updates:
            raise NonFiniteGradients(
                f"{total} updates came out NaN or infinite and were skipped; the last step, "
                f"{step}, had losses {[update.loss for update in updates]} and gradient norms "
                f"{[update.grad_norm for update in updates]} at learning_rate "
                f"{updates[-1].learning_rate:g}. A lower one usually helps."
            )

    def _is_evaluated(self, step: int) -> bool:
        is_due = step % self.config.eval_interval == 0 or step == self.config.total_steps
        return is_due and len(self.held_out_prompts) > 0

    def _evaluate(self, stopwatch: Stopwatch) -> Evaluation:
        with stopwatch.timing("evaluating"):
            evaluation = self.evaluator.evaluate(self.counts.baseline)
            self.gate.check_identity()
        return evaluation

    def _metrics(
        self, counts: Counts, collected: Collected, groups: list[Group], updates: list[Update]
    ) -> Metrics:
        return {
            **rollout_metrics(groups),
            **grading_metrics(collected.drawn),
            **component_metrics(groups, collected.drawn, self.config),
            **group_metrics(collected, batch_size=self.config.batch_size),
            **update_metrics(updates),
            "updates/num_nonfinite": counts.num_nonfinite_updates,
            "num_tokens": counts.num_tokens,
            "epoch": counts.num_prompts / len(self.train_prompts),
        }

    def _booked(
        self,
        counts: Counts,
        metrics: Metrics,
        groups: list[Group],
        drawn: list[Group],
        evaluation: Evaluation | None,
        stopwatch: Stopwatch,
    ) -> StepResult:
        """Take up the counts, with which the step is finished, and return all it came to."""
        if evaluation:
            counts = counts.evaluated(evaluation)
            metrics |= evaluation_metrics(
                evaluation, pass_threshold=self.config.eval_pass_threshold
            )
        metrics |= self.memory.metrics()
        metrics |= {f"time/{phase}_seconds": spent for phase, spent in stopwatch.seconds.items()}
        metrics["step_time"] = stopwatch.elapsed_seconds
        self.counts = counts
        return StepResult(counts.step, metrics, groups, drawn, evaluation, stopwatch.seconds)

    def save(self, folder: Path) -> None:
        """Write the training state after the last finished step."""
        self.snapshot()(folder)

    def snapshot(self) -> Callable[[Path], None]:
        """Return what writes the training state after the last finished step, now or later."""
        tensors = capture(self.policy.trainable, self.updater.optimizer)
        state = {
            **self._identity(),
            "counts": asdict(self.counts),
            "memory": asdict(self.memory.budgets),
        }
        return lambda folder: save_state(folder, tensors, state)

    def restore(self, folder: Path) -> None:
        """Take up a training state; raises `InvalidCheckpoint` when it is not of this run.

        The run is then as it was before.
        """
        tensors, state = load_state(folder, expected=self._identity())
        try:
            counts = Counts.from_json(state["counts"])
            budgets = self.memory.parse(state.get("memory"))
        except (KeyError, TypeError) as error:
            raise InvalidCheckpoint(f"{folder} does not say where its run was: {error}") from error
        reinstate(tensors, self.policy.trainable, self.updater.optimizer)
        self.counts = counts
        self.memory.restore(budgets)
        self.gate.restart()

    def _identity(self) -> dict[str, Any]:
        """What makes a run this run: with any of it changed, a resume would be another run."""
        return {
            **{f"config.{name}": value for name, value in asdict(self.config).items()},
            "num_train_prompts": len(self.train_prompts),
            "base_checksum": self.gate.base_checksum,
        }


def num_nonfinite(updates: Sequence[Update]) -> int:
    """Return how many updates were skipped because loss or gradient was NaN or infinite."""
    return sum(not update.is_applied for update in updates)
