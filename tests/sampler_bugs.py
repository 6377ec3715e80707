"""Ways to sample another policy than the one in training, each met in the wild."""

import copy
from typing import Any

import torch

from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import Policy
from worker.grpo.types import Rollout


class Detached(HfSampler):
    """Bug: the adapter is not attached where completions are drawn."""

    def sample(self, *args: Any, **kwargs: Any) -> list[list[Rollout]]:
        with self.policy.reference():
            return super().sample(*args, **kwargs)


class Stale(HfSampler):
    """Bug: completions are drawn with the adapter as it was when the sampler was made."""

    def __init__(self, policy: Policy, **kwargs: Any) -> None:
        super().__init__(copy.deepcopy(policy), **kwargs)


class StaleAndUnaware(Stale):
    """The same, and it says of itself what it was told last instead of what it has."""

    def __init__(self, policy: Policy, **kwargs: Any) -> None:
        super().__init__(policy, **kwargs)
        self.told = policy

    def adapter_fingerprint(self) -> str:
        return self.told.adapter_fingerprint()


class MergedInPlace(HfSampler):
    """Bug: the adapter is merged into the base to sample, and taken out of it again."""

    def sample(self, *args: Any, **kwargs: Any) -> list[list[Rollout]]:
        self.policy.model.merge_adapter()
        try:
            return super().sample(*args, **kwargs)
        finally:
            self.policy.model.unmerge_adapter()


class MergedTwice(HfSampler):
    """Bug: the sampler's base has the adapter merged into it, and applies it on top."""

    def sample(self, *args: Any, **kwargs: Any) -> list[list[Rollout]]:
        policy = copy.deepcopy(self.policy)
        for layer in policy.base.model.layers:
            for name in ("q_proj", "v_proj"):
                module = getattr(layer.self_attn, name)
                with torch.no_grad():
                    module.base_layer.weight.add_(module.get_delta_weight("default"))
        sampler = HfSampler(policy, eos_ids=self.eos_ids)
        rows = sampler.sample(*args, **kwargs)
        self._fingerprint = sampler.adapter_fingerprint()
        return rows
