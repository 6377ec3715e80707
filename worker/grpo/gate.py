"""The sampler gate: proof, again and again, that what is sampled is what is being trained.

A sampler that draws from another policy (no adapter, yesterday's adapter, a base into which an
adapter was merged) does not crash anything: rewards merely stop rising. So its log-probs are
compared with the trainer's on the tokens it drew, and the weights with what they should be.
"""

from collections.abc import Sequence

import torch

from worker.grpo.batch import Sample, collate, plan
from worker.grpo.config import GrpoConfig
from worker.grpo.errors import SamplerDesync
from worker.grpo.forward import score
from worker.grpo.policy import Policy
from worker.grpo.rollout import Sampler
from worker.grpo.types import Group
from worker.grpo.update import Update

# Mean absolute difference that rounding alone does not reach, by the base's dtype.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}

MOVING_NORM = 1e-6  # A gradient below it may leave fp32 weights where they are.


class SamplerGate:
    """Checks at the first step of a process, at the first step after an update, then at intervals.

    Before any update a fresh adapter is no different from none: only the second check can tell.
    """

    def __init__(self, policy: Policy, sampler: Sampler, config: GrpoConfig) -> None:
        self.policy = policy
        self.sampler = sampler
        self.config = config
        self.base_checksum = policy.base_checksum()
        self.restart()

    def restart(self) -> None:
        """Check at the next step, whatever it is: the adapter has just been put in place."""
        self.is_first = True
        self.has_seen_update = False
        self.has_updated = False
        self.last_fingerprint = ""

    def note(self, updates: Sequence[Update]) -> None:
        """Remember that an update was made which must have moved the adapter."""
        self.has_updated |= any(u.is_applied and u.grad_norm > MOVING_NORM for u in updates)

    def is_due(self, step: int) -> bool:
        """Return whether this step must be checked."""
        is_early = self.is_first or (self.has_updated and not self.has_seen_update)
        return is_early or step % self.config.sampler_check_interval == 0

    def check(self, groups: Sequence[Group]) -> dict[str, float]:
        """Compare on rollouts that were just drawn, before any update; return the metrics.

        Raises `SamplerDesync` with the sentence that says what differs.
        """
        fingerprint = self.policy.adapter_fingerprint()
        if self.sampler.adapter_fingerprint() != fingerprint:
            raise SamplerDesync("The sampler draws with another adapter than the one in training.")
        if self.has_updated and fingerprint == self.last_fingerprint:
            raise SamplerDesync("Updates were made and the adapter has not moved.")
        if self.policy.base_checksum() != self.base_checksum:
            raise SamplerDesync("The base model's weights have changed; they must stay frozen.")
        mean, largest = self._difference(groups)
        tolerance = TOLERANCE[self.policy.dtype]
        if not mean <= tolerance:  # Not `>`: NaN must not pass.
            raise SamplerDesync(
                f"The sampler's log-probs differ from the trainer's by {mean:.3g} a token on the "
                f"tokens it drew (allowed: {tolerance:g}): it does not sample the policy."
            )
        self.has_seen_update |= self.has_updated
        self.is_first, self.has_updated, self.last_fingerprint = False, False, fingerprint
        return {
            "sampling/sampling_logp_difference/mean": mean,
            "sampling/sampling_logp_difference/max": largest,
        }

    @torch.no_grad()
    def _difference(self, groups: Sequence[Group]) -> tuple[float, float]:
        """Mean and largest absolute difference over one micro-batch, a rollout of each group."""
        samples = [Sample(i, g.prompt, g.rollouts[0], 0.0, 0.0) for i, g in enumerate(groups)]
        chosen = plan(
            samples,
            max_tokens=self.config.micro_batch_tokens,
            share_prompts=self.policy.shares_prompts,
        )[0]
        batch = collate(chosen, self.policy.device)
        logprobs_BT, _ = score(self.policy, batch, self.config.temperature)
        differences = (logprobs_BT - batch.sampler_logprobs_BT)[batch.completion_mask_BT].abs()
        return float(differences.mean()), float(differences.max())
