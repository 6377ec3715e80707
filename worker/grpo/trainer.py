"""The GRPO loop: sample groups, grade them, weigh log-probs with advantages, update, repeat.

DeepSeekMath, algorithm 1, https://arxiv.org/abs/2402.03300.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from worker.grpo.checkpoint import capture, load_state, reinstate, save_state
from worker.grpo.collect import Collected, Collector
from worker.grpo.config import GrpoConfig
from worker.grpo.errors import InvalidConfig, NonFiniteGradients
from worker.grpo.evaluate import evaluate
from worker.grpo.gate import SamplerGate
from worker.grpo.grading import GradeFn
from worker.grpo.hooks import Hooks, Stopwatch
from worker.grpo.metrics import (
    Metrics,
    evaluation_metrics,
    group_metrics,
    rollout_metrics,
    update_metrics,
)
from worker.grpo.policy import Policy
from worker.grpo.rollout import Sampler
from worker.grpo.types import Evaluation, Group, Prompt, StepResult
from worker.grpo.update import Update, Updater


@dataclass(frozen=True, slots=True)
class Counts:
    """Where a run is. With the tensors of `capture` it is all that a resume needs."""

    step: int
    """The last finished step; -1 before the evaluation that is step 0."""
    num_prompts: int = 0
    """Prompt visits so far: the cursor in the shuffled data."""
    num_tokens: int = 0
    num_nonfinite_updates: int = 0
    lowest_reward: float | None = None
    highest_reward: float | None = None


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
        hooks: Hooks | None = None,
    ) -> None:
        if not train_prompts:
            raise InvalidConfig("There are no prompts to train on.")
        self.policy = policy
        self.sampler = sampler
        self.config = config
        self.train_prompts = train_prompts
        self.held_out_prompts = held_out_prompts
        self.grade = grade
        self.hooks = hooks or Hooks()
        self.collector = Collector(sampler, config, train_prompts, grade, self.hooks)
        self.updater = Updater(policy, config)
        self.gate = SamplerGate(policy, sampler, config)
        self.counts = Counts(step=-1 if held_out_prompts else 0)
        self._before_update: dict[str, Tensor] | None = None

    def steps(self) -> Iterator[StepResult]:
        """Yield step 0 (an evaluation before any update), then steps 1 .. total_steps.

        After `restore` it goes on behind the last step that had been yielded. A step is finished
        when it is yielded; interrupted before that, it leaves no trace and is drawn again. The
        last step has an evaluation. Without held-out prompts there is no step 0.
        """
        while self.counts.step < self.config.total_steps:
            with self._undone_on_error():
                result = self._step(self.counts.step + 1)
            yield result

    def _step(self, step: int) -> StepResult:
        started = time.perf_counter()
        stopwatch = Stopwatch()
        counts = replace(self.counts, step=step)
        groups: list[Group] = []
        metrics: Metrics = {}
        if step > 0:
            collected = self.collector.collect(
                step=step, cursor=counts.num_prompts, stopwatch=stopwatch
            )
            groups = collected.groups
            with stopwatch.timing("training"):
                metrics |= self.gate.check(groups) if self.gate.is_due(step) else {}
                updates = self._update(step, groups)
            counts = self._counted(counts, collected, updates)
            metrics |= self._metrics(counts, collected, updates)
        evaluation = self._evaluate(stopwatch) if self._is_evaluated(step) else None
        if evaluation:
            metrics |= evaluation_metrics(evaluation)
        metrics |= {f"time/{phase}_seconds": spent for phase, spent in stopwatch.seconds.items()}
        metrics["step_time"] = time.perf_counter() - started
        self.counts = counts
        self._before_update = None
        return StepResult(step, metrics, groups, evaluation, stopwatch.seconds)

    def _update(self, step: int, groups: Sequence[Group]) -> list[Update]:
        """Move the adapter, keeping what it was while the step can still be interrupted."""
        work = self.updater.prepare(groups)
        if self.config.updates_per_rollout > 1 or self._is_evaluated(step):
            self._before_update = capture(self.policy.trainable, self.updater.optimizer)
        done, total = count(1), len(work.batches) * self.config.updates_per_rollout
        self.hooks.progress("training", 0, total)
        updates = self.updater.run(
            work,
            step=step,
            interrupt=self.hooks.interrupt,
            progress=lambda: self.hooks.progress("training", next(done), total),
        )
        self.gate.note(updates)
        return updates

    def _is_evaluated(self, step: int) -> bool:
        is_due = step % self.config.eval_interval == 0 or step == self.config.total_steps
        return is_due and len(self.held_out_prompts) > 0

    def _evaluate(self, stopwatch: Stopwatch) -> Evaluation:
        with stopwatch.timing("evaluating"):
            return evaluate(
                self.sampler,
                self.held_out_prompts,
                max_tokens=self.config.max_completion_tokens,
                grade=self.grade,
                interrupt=self.hooks.interrupt,
                progress=partial(self.hooks.progress, "evaluating"),
            )

    def _counted(self, counts: Counts, collected: Collected, updates: list[Update]) -> Counts:
        """Return the counts after a step; raises when too many updates were not finite."""
        rewards = [g.reward for group in collected.groups for g in group.graded]
        seen = [counts.lowest_reward, counts.highest_reward, *rewards]
        known = [reward for reward in seen if reward is not None]
        num_nonfinite = sum(not update.is_applied for update in updates)
        counts = replace(
            counts,
            num_prompts=counts.num_prompts + collected.num_prompts,
            num_tokens=counts.num_tokens + collected.num_tokens,
            num_nonfinite_updates=counts.num_nonfinite_updates + num_nonfinite,
            lowest_reward=min(known, default=None),
            highest_reward=max(known, default=None),
        )
        if counts.num_nonfinite_updates > self.config.max_nonfinite_updates:
            last = [update for update in updates if not update.is_applied][-1:]
            raise NonFiniteGradients(
                f"{counts.num_nonfinite_updates} updates came out NaN or infinite, the last at "
                f"step {counts.step}: {last}. A lower learning_rate usually helps."
            )
        return counts

    def _metrics(self, counts: Counts, collected: Collected, updates: list[Update]) -> Metrics:
        groups = collected.groups
        return {
            **rollout_metrics(groups),
            **group_metrics(groups, lowest=counts.lowest_reward, highest=counts.highest_reward),
            **update_metrics(updates),
            "groups/refill_ratio": collected.num_prompts / self.config.batch_size,
            "updates/num_nonfinite": counts.num_nonfinite_updates,
            "num_tokens": counts.num_tokens,
            "epoch": counts.num_prompts / len(self.train_prompts),
        }

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """Let the state be that after the last finished step, whatever stops this one."""
        try:
            yield
        except BaseException:
            self.updater.optimizer.zero_grad()
            if self._before_update is not None:
                reinstate(self._before_update, self.policy.trainable, self.updater.optimizer)
                self._before_update = None
            self.gate.restart()
            raise

    def save(self, folder: Path) -> None:
        """Write the training state after the last finished step."""
        tensors = capture(self.policy.trainable, self.updater.optimizer)
        save_state(folder, tensors, {**self._identity(), "counts": asdict(self.counts)})

    def restore(self, folder: Path) -> None:
        """Take up a training state; raises `InvalidCheckpoint` when it is not of this run."""
        tensors, state = load_state(folder, expected=self._identity())
        reinstate(tensors, self.policy.trainable, self.updater.optimizer)
        self.counts = Counts(**state["counts"])
        self.gate.restart()

    def _identity(self) -> dict[str, Any]:
        """What makes a run this run: with any of it changed, a resume would be another run."""
        return {
            **{f"config.{name}": value for name, value in asdict(self.config).items()},
            "num_train_prompts": len(self.train_prompts),
            "base_checksum": self.gate.base_checksum,
        }
