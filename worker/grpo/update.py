"""From graded groups to a moved adapter: the optimizer updates of one step."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW

from worker.grpo.batch import OVERHEAD_TOKENS, MicroBatch, Sample, collate, longest, plan
from worker.grpo.config import GrpoConfig
from worker.grpo.denominators import rollout_weights
from worker.grpo.forward import score
from worker.grpo.objective import objective
from worker.grpo.policy import Policy
from worker.grpo.types import Group, Rollout


@dataclass(frozen=True, slots=True)
class Work:
    """The rollouts of a step that have something to teach, as tensors."""

    batches: list[MicroBatch]
    num_step_tokens: int
    """Trained tokens of the whole step, those without signal included."""


@dataclass(frozen=True, slots=True)
class Constants:
    """What the loss of a micro-batch holds fixed; None where the objective does not need it."""

    old_logprobs_BT: Tensor | None
    ref_logprobs_BT: Tensor | None


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimizer update was."""

    loss: float
    grad_norm: float
    learning_rate: float
    sums: dict[str, float]
    """Sums over the tokens it was computed on: `num_tokens`, `entropy`, `kl`, `clip_low`, ..."""
    is_applied: bool
    """False when loss or gradient came out NaN or infinite: the adapter then stays as it was."""


class Updater:
    """The optimizer of a run, and how it takes a step's rollouts into the adapter."""

    def __init__(self, policy: Policy, config: GrpoConfig) -> None:
        self.policy = policy
        self.config = config
        self.micro_batch_tokens = config.micro_batch_tokens
        """Most tokens of a pass; it may be lowered between two preparations."""
        self.parameters = list(policy.trainable.values())
        self.optimizer = AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=0.0, fused=True
        )

    def prepare(self, groups: Sequence[Group]) -> Work:
        """Return the work that a step's groups are; it is empty when none has signal."""
        samples, num_step_tokens = training_samples(groups, self.config)
        layout = self.policy.layout(longest(samples))
        batches = plan(
            samples,
            max_tokens=self.micro_batch_tokens,
            layout=layout,
            overhead_tokens=OVERHEAD_TOKENS[self.policy.device.type],
        )
        return Work(
            [collate(batch, self.policy.device, layout) for batch in batches], num_step_tokens
        )

    def run(
        self, work: Work, *, step: int, interrupt: Callable[[], None], progress: Callable[[], None]
    ) -> list[Update]:
        """Make the step's updates; `interrupt` is called before each pass, `progress` after one."""
        if not work.batches:
            return []
        constants = self.constants(work, interrupt)
        rate, updates = learning_rate(self.config, step), []
        for _ in range(self.config.updates_per_rollout):
            with self.policy.unmoved():
                totals = self.backward(work, constants, interrupt=interrupt, progress=progress)
            updates.append(self.apply(totals, rate))
        return updates

    def constants(self, work: Work, interrupt: Callable[[], None]) -> list[Constants]:
        """Return what the loss holds fixed, before the first update.

        Old log-probs are needed only for several updates: with one, the policy before the update
        is the policy. The reference is the base model, which is the policy with its adapter off.
        """
        old: Sequence[Tensor | None] = [None] * len(work.batches)
        ref: Sequence[Tensor | None] = [None] * len(work.batches)
        if self.config.updates_per_rollout > 1:
            old = self._score_all(work, interrupt)
        if self.config.kl_coef:
            with self.policy.reference():
                ref = self._score_all(work, interrupt)
        return [Constants(*pair) for pair in zip(old, ref, strict=True)]

    @torch.no_grad()
    def _score_all(self, work: Work, interrupt: Callable[[], None]) -> list[Tensor]:
        logprobs = []
        with self.policy.unmoved():
            for batch in work.batches:
                interrupt()
                logprobs.append(score(self.policy, batch, self.config.temperature)[0])
        return logprobs

    def backward(
        self,
        work: Work,
        constants: Sequence[Constants],
        *,
        interrupt: Callable[[], None],
        progress: Callable[[], None],
    ) -> dict[str, float]:
        """Leave the gradient of the whole step's loss in the adapter; return loss and sums."""
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = defaultdict(partial(torch.zeros, (), dtype=torch.float64))
        for batch, fixed in zip(work.batches, constants, strict=True):
            interrupt()
            logprobs_BT, entropy_BT = score(
                self.policy,
                batch,
                self.config.temperature,
                is_entropy_trained=self.config.entropy_coef > 0,
            )
            old_logprobs_BT = fixed.old_logprobs_BT
            loss, sums = objective(
                logprobs_BT=logprobs_BT,
                old_logprobs_BT=logprobs_BT.detach()
                if old_logprobs_BT is None
                else old_logprobs_BT,
                ref_logprobs_BT=fixed.ref_logprobs_BT,
                sampler_logprobs_BT=batch.sampler_logprobs_BT,
                entropy_BT=entropy_BT,
                advantages_B=batch.advantages_B,
                loss_mask_BT=batch.loss_mask_BT,
                weights_B=batch.weights_B,
                num_step_tokens=work.num_step_tokens,
                config=self.config,
            )
            loss.backward()
            for name, value in (sums | {"loss": loss.detach()}).items():
                totals[name] = totals[name].to(value.device) + value
            progress()
        # Read once for all: on a GPU every reading waits for it.
        return dict(zip(totals, torch.stack(list(totals.values())).tolist(), strict=True))

    def apply(self, totals: dict[str, float], rate: float) -> Update:
        """Clip the gradient and step the optimizer, unless something is not finite."""
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        sums = dict(totals)
        loss, grad_norm = sums.pop("loss"), float(norm)
        is_applied = math.isfinite(loss) and math.isfinite(grad_norm)
        if is_applied:
            clip_grads_with_norm_(self.parameters, self.config.max_grad_norm, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad()
        return Update(loss, grad_norm, rate, sums, is_applied)


def training_samples(groups: Sequence[Group], config: GrpoConfig) -> tuple[list[Sample], int]:
    """Return the rollouts to train on with their weights, and the trained tokens of the step.

    Every rollout counts in the denominators. One without advantage is left out of the computation
    when that is exact: its gradient is 0 unless a KL or an entropy term is on.
    """
    num_tokens = [num_trained_tokens(r, config) for group in groups for r in group.rollouts]
    weights = rollout_weights(
        torch.tensor(num_tokens),
        config.loss_type,
        max_completion_tokens=config.max_completion_tokens,
    ).tolist()
    rows = [
        (position, group.prompt, rollout, advantage)
        for position, group in enumerate(groups)
        for rollout, advantage in zip(group.rollouts, group.advantages, strict=True)
    ]
    has_other_terms = config.kl_coef > 0 or config.entropy_coef > 0
    samples = [
        Sample(*row, weight)
        for row, weight, count in zip(rows, weights, num_tokens, strict=True)
        if count and (row[-1] or has_other_terms)
    ]
    return samples, sum(num_tokens)


def num_trained_tokens(rollout: Rollout, config: GrpoConfig) -> int:
    """Return how many of a rollout's tokens the loss is over."""
    if config.mask_truncated and rollout.finish_reason == "length":
        return 0
    return sum(rollout.loss_mask)


def learning_rate(config: GrpoConfig, step: int) -> float:
    """Return the rate of step 1, 2, ...: linear warm-up, then constant."""
    return config.learning_rate * min(1.0, step / max(1, config.warmup_steps))
