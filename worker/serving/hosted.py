"""A base model in memory and the adapters on it, which are never merged into it.

Which adapter a row goes through is said with every pass (PEFT's mixed batches), so requests for
different adapters of one base share its passes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from worker.grpo.cache import GroupCache, cache_bytes, is_plain_attention
from worker.grpo.policy import cache_argument
from worker.prompts import PromptRenderer
from worker.serving.loaded import Loaded

BASE = "__base__"
"""PEFT's word for no adapter."""

MAX_ADAPTERS = 16  # On one base; the longest unused one goes when another is needed.


class HostedModel(Loaded):
    """One base. `adapt` and `logits` are called by one thread only."""

    architecture = AutoModelForCausalLM

    def __init__(self, folder: Path) -> None:
        """Raises JobFailure for its tokenizer, OSError or ValueError for the rest."""
        self.renderer = PromptRenderer(folder)
        super().__init__(folder)
        self.model: PreTrainedModel | PeftModel = self.base
        self._adapters: dict[str, float] = {}
        self._cache_argument = cache_argument(self.base)

    @property
    def config(self) -> PretrainedConfig:
        return cast(PretrainedConfig, self.base.config)

    @property
    def is_joinable(self) -> bool:
        """Whether rows of different lengths can share a batch: all state is keys and values."""
        return is_plain_attention(self.config)

    @property
    def bytes_per_token(self) -> int:
        """Cache that one token of one row takes."""
        return cache_bytes(self.config, self.base.dtype)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every id that the model's own generation config ends an answer with."""
        ids = self.base.generation_config.eos_token_id if self.base.generation_config else None
        ids = ids if ids is not None else self.config.eos_token_id
        return frozenset([] if ids is None else ids if isinstance(ids, list | tuple) else [ids])

    def adapt(self, name: str, folder: Path, *, in_use: set[str]) -> None:
        """Have the adapter ready under `name`, without dropping one of `in_use`.

        Raises what PEFT raises for a folder that is no adapter of this base.
        """
        if name not in self._adapters:
            self._attach(name, folder)
        self._adapters[name] = time.monotonic()
        idle = sorted(self._adapters.keys() - in_use - {name}, key=self._adapters.__getitem__)
        for oldest in idle[: max(0, len(self._adapters) - MAX_ADAPTERS)]:
            cast(PeftModel, self.model).delete_adapter(oldest)
            del self._adapters[oldest]

    def _attach(self, name: str, folder: Path) -> None:
        with warnings.catch_warnings():
            # peft 0.21 asks transformers by a name that 5.23 calls deprecated.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            else:
                self.model = PeftModel.from_pretrained(self.base, folder, adapter_name=name)
        # PEFT wants one adapter to be the active one, and that it is not deleted.
        self.model.set_adapter(name)
        self.model.eval()

    def logits(
        self,
        ids_BL: Tensor,
        *,
        mask_BL: Tensor | None,
        positions_BL: Tensor,
        cache: GroupCache,
        adapters: Sequence[str],
    ) -> Tensor:
        """Meet `Decoder.logits`."""
        mixed = {"adapter_names": list(adapters)} if isinstance(self.model, PeftModel) else {}
        output = self.model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=positions_BL,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_argument: cache},
            **mixed,
        )
        return cast(Tensor, output.logits[:, -1])
