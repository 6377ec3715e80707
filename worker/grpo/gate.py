"""The sampler gate: proof, again and again, that what is sampled is what is being trained.

A sampler that draws from another policy (no adapter, yesterday's adapter, a base into which an
adapter was merged) does not crash anything: rewards merely stop rising. So its log-probs are
compared with the trainer's on the tokens it drew, and the weights with what they should be.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from worker.grpo.batch import Sample, collate, longest, plan
from worker.grpo.config import GrpoConfig
from worker.grpo.errors import SamplerDesync
from worker.grpo.forward import score
from worker.grpo.order import stream_seed
from worker.grpo.policy import Policy
from worker.grpo.rollout import Sampler
from worker.grpo.types import Group, Prompt
from worker.grpo.update import Update

# Mean absolute difference that rounding alone does not reach, by the base's dtype.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}

MOVING_NORM = 1e-6  # A gradient below it may leave fp32 weights where they are.

# The rehearsal: a few prompts, a few tokens, and an adapter of a fifth of its base's size.
NUM_REHEARSED, REHEARSED_TOKENS, REHEARSED_SHARE = 4, 8, 0.2


class SamplerGate:
    """Rehearses before the first step of a process, then watches every step, some of them closely.

    Every step and evaluation: is the adapter that was drawn with the one in training? Every step:
    did its updates move that? At the first step, the first after an update, at intervals and at the
    last: is the base untouched, and are the log-probs of sampler and trainer equal?
    """

    def __init__(self, policy: Policy, sampler: Sampler, config: GrpoConfig) -> None:
        self.policy = policy
        self.sampler = sampler
        self.config = config
        self.micro_batch_tokens = config.micro_batch_tokens
        self.base_checksum = policy.base_checksum()
        self.restart()

    def restart(self) -> None:
        """Prove everything again, whatever step comes next: the adapter was just put in place."""
        self.is_rehearsed = False
        self.is_look_due = True
        self.has_moved = False
        self.fingerprint = ""

    def rehearse(self, prompts: Sequence[Prompt], *, interrupt: Callable[[], None]) -> None:
        """Sample with an adapter that cannot be mistaken for none, compare, and take it back.

        A fresh adapter changes nothing: a sampler that did without it, or merged it, would be
        found out only after the first update. Raises `SamplerDesync`.
        """
        if self.is_rehearsed:
            return
        rehearsed = prompts[:NUM_REHEARSED]
        with self._disturbed():
            rows = self.sampler.sample(
                rehearsed,
                num_samples=1,
                max_tokens=min(REHEARSED_TOKENS, self.config.max_completion_tokens),
                temperature=self.config.temperature,
                seed=stream_seed(self.config.seed, "rehearsal"),
                on_finished=lambda rollout: None,
                interrupt=interrupt,
            )
            self.check_identity()
            self._check_base()
            samples = [
                Sample(i, prompt, row[0], 0.0, 0.0)
                for i, (prompt, row) in enumerate(zip(rehearsed, rows, strict=True))
            ]
            self._check_difference(samples)
        self.is_rehearsed = True

    def is_due(self, step: int) -> bool:
        """Return whether this step is looked at closely."""
        is_last = step == self.config.total_steps
        return self.is_look_due or is_last or step % self.config.sampler_check_interval == 0

    def check(self, groups: Sequence[Group], *, step: int) -> dict[str, float]:
        """Check a step's rollouts, just drawn, before any update; return the metrics.

        Raises `SamplerDesync` with the sentence that says what differs.
        """
        self.fingerprint = self.check_identity()
        metrics = self._look_closely(groups) if self.is_due(step) else {}
        self.is_look_due = False
        return metrics

    def check_updated(self, updates: Sequence[Update]) -> None:
        """Check the step's updates, just made, before anything is sampled or saved with them.

        Raises `SamplerDesync` when they did not move the adapter.
        """
        if not any(u.is_applied and u.grad_norm > MOVING_NORM for u in updates):
            return
        if self.policy.adapter_fingerprint() == self.fingerprint:
            raise SamplerDesync("Updates were made and the adapter has not moved.")
        if not self.has_moved:
            self.has_moved = self.is_look_due = True

    def check_identity(self) -> str:
        """Return the fingerprint of the policy, which the last `sample` must have drawn with.

        Raises `SamplerDesync` when it drew with another one.
        """
        fingerprint = self.policy.adapter_fingerprint()
        if self.sampler.adapter_fingerprint() != fingerprint:
            raise SamplerDesync(
                "The sampler drew with another adapter than the one in training, or with none."
            )
        return fingerprint

    def _check_base(self) -> None:
        if self.policy.base_checksum() != self.base_checksum:
            raise SamplerDesync("The base model's weights have changed; they must stay frozen.")

    def _look_closely(self, groups: Sequence[Group]) -> dict[str, float]:
        self._check_base()
        return self._check_difference(
            [Sample(i, group.prompt, group.rollouts[0], 0.0, 0.0) for i, group in enumerate(groups)]
        )

    @torch.no_grad()
    def _check_difference(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Return mean and largest absolute difference over one micro-batch of the samples.

        Of the tokens that are trained: the sampler drew those, and no others.
        """
        trained = [sample for sample in samples if any(sample.rollout.loss_mask)]
        if not trained:
            return {}
        layout = self.policy.layout(longest(trained))
        chosen = plan(trained, max_tokens=self.micro_batch_tokens, layout=layout)[0]
        batch = collate(chosen, self.policy.device, layout)
        logprobs_BT, _ = score(self.policy, batch, self.config.temperature)
        differences = (logprobs_BT - batch.sampler_logprobs_BT)[batch.loss_mask_BT].abs()
        mean, tolerance = float(differences.mean()), TOLERANCE[self.policy.dtype]
        if not mean <= tolerance:  # Not `>`: NaN must not pass.
            raise SamplerDesync(
                f"The sampler's log-probs differ from the trainer's by {mean:.3g} a token on the "
                f"tokens it drew (allowed: {tolerance:g}): it does not sample the policy."
            )
        return {
            "sampling/sampling_logp_difference/mean": mean,
            "sampling/sampling_logp_difference/max": float(differences.max()),
        }

    @contextmanager
    def _disturbed(self) -> Iterator[None]:
        """Within it the adapter is far from what it was; afterwards it is that to the bit."""
        generator = torch.Generator().manual_seed(stream_seed(self.config.seed, "rehearsal"))
        saved = {name: p.detach().clone() for name, p in self.policy.trainable.items()}
        scale = self.policy.lora_config.lora_alpha / self.policy.lora_config.r
        try:
            with torch.no_grad():
                for name, parameter in self.policy.trainable.items():
                    if "lora_B" in name:
                        # A's rows have a norm near 1/sqrt(3): s B A is then the share of W.
                        size = REHEARSED_SHARE * (3 / parameter.shape[1]) ** 0.5 / scale
                        noise = torch.randn(parameter.shape, generator=generator) * size
                        parameter.add_(noise.to(parameter.device, parameter.dtype))
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.policy.trainable.items():
                    parameter.copy_(saved[name])
