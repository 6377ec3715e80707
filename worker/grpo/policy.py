"""The policy: a frozen base model with a LoRA adapter, which is never merged into it."""

import inspect
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from worker.grpo.attention import attends_over_rows
from worker.grpo.batch import Layout
from worker.grpo.cache import attention_window, is_plain_attention
from worker.grpo.checksum import checksum
from worker.grpo.errors import InvalidCheckpoint, UnsupportedModel
from worker.grpo.head import check_head, logits_head
from worker.grpo.lora import adapted_layers, fixed_weights, linear_class

OLD_CACHE_NAME = "past_key_values"


def cache_argument(decoder: nn.Module) -> str:
    """Return the name by which a decoder takes its cache: since transformers 5.24 a new one."""
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else OLD_CACHE_NAME


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """The adapter's shape. Dropout is always 0: it would make old and new log-probs differ."""

    rank: int = 16
    alpha: int = 32
    target_modules: str | list[str] = "all-linear"


class Policy:
    """A base model and its adapter: base weights frozen, adapter weights trained in fp32."""

    def __init__(self, base: PreTrainedModel, lora: LoraSettings, *, seed: int) -> None:
        """Attach a fresh adapter (B = 0, so the policy starts as the base) drawn from `seed`."""
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=lora.target_modules,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
            # GPT-2's layers keep their weights the other way around.
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.modules()),
        )
        if (kind := linear_class(base)) is not None:
            config._register_custom_module({nn.Linear: kind})
        self.num_base_weights = sum(p.numel() for p in base.parameters())
        with torch.random.fork_rng([base.device] if base.device.type == "cuda" else []):
            torch.manual_seed(seed)
            with warnings.catch_warnings():
                # peft 0.21 asks transformers by a name that 5.23 calls deprecated.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                self.model: PeftModel = get_peft_model(base, config)
        # Dropout of any kind would make the ratio of a fresh rollout differ from 1.
        self.model.eval()
        self.lora_config = config
        self.base = base
        # Listed once: to walk through all modules takes longer than a small model's token.
        self.parameters = dict(self.model.named_parameters())
        """All weights by name, the base's and the adapter's."""
        self.adapted = adapted_layers(self.model)
        """The layers of our own that have an adapter."""
        self.decoder = base.get_decoder()
        """The model without its head: ids to hidden states, adapter included."""
        self.cache_argument = cache_argument(self.decoder)
        """What the decoder calls the cache it is given."""
        self.head = logits_head(base)
        """[N, H] hidden states to [N, V] logits."""
        self.vocab_size = int(base.config.get_text_config().vocab_size)
        self.is_head_trained = any(
            p.requires_grad for p in base.get_output_embeddings().parameters()
        )
        check_head(base, self.head)
        self.shares_prompts = is_plain_attention(base.config)
        """Whether a prompt's state can be computed once and continued by all its rollouts."""
        self.attends_over_rows = self.shares_prompts and attends_over_rows(base)
        """Whether many sequences can be computed as one row, none longer than `window`."""
        self.window = attention_window(base.config)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        lora: LoraSettings | None = None,
        seed: int = 0,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        local_files_only: bool = True,
    ) -> "Policy":
        """Load a base model (safetensors only, no remote code) and attach a fresh adapter.

        `dtype` is that of the base: fp32 on the CPU and bf16 on CUDA unless given. Raises
        `UnsupportedModel` when there are no safetensors or the architecture needs remote code.
        """
        dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
        try:
            base = AutoModelForCausalLM.from_pretrained(
                str(model),
                revision=revision,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=local_files_only,
            )
        except (OSError, ValueError) as error:
            raise UnsupportedModel(f"The base model {model} cannot be loaded: {error}") from error
        return cls(cast(Any, base).to(device), lora or LoraSettings(), seed=seed)

    def layout(self, longest: int) -> Layout:
        """Return how sequences of at most `longest` tokens are computed with the least padding."""
        if self.attends_over_rows and longest <= self.window:
            return Layout.ROW
        return Layout.SHARED if self.shares_prompts else Layout.WHOLE

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """The base's dtype; the adapter's is always fp32 or better."""
        return self.base.dtype

    @property
    def eos_ids(self) -> list[int]:
        """Every id that the model's own generation config ends a completion with."""
        ids = self.base.generation_config.eos_token_id if self.base.generation_config else None
        ids = ids if ids is not None else self.base.config.eos_token_id
        return [] if ids is None else list(ids) if isinstance(ids, list | tuple) else [ids]

    @property
    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters by name, fp32."""
        return {n: p for n, p in self.parameters.items() if p.requires_grad}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the policy is its base model: the adapter is off."""
        with self.model.disable_adapter():
            yield

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Within it no gradient is taken and no weight changes: what can be made once, is."""
        with torch.no_grad(), self.unmoved():
            yield

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Within it no adapter weight changes: what passes need of them is made once for all."""
        with fixed_weights(self.adapted):
            yield

    def base_checksum(self) -> str:
        """Return a checksum of every base weight: equal before and after a run."""
        return checksum({n: p for n, p in self.model.named_parameters() if not p.requires_grad})

    def adapter_fingerprint(self) -> str:
        """Return a checksum of the adapter's weights as they are now; where it is off, of none."""
        return checksum(self.trainable)

    def adapter_state(self) -> dict[str, Tensor]:
        """Return the adapter's weights on the CPU, under PEFT's names."""
        state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def load_adapter_state(self, state: dict[str, Tensor]) -> None:
        """Put weights in PEFT's names into the adapter; they must be exactly its own."""
        expected = self.adapter_state()
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in expected.items()}:
            raise InvalidCheckpoint("The adapter's weights do not fit this base and LoRA rank.")
        set_peft_model_state_dict(self.model, state)

    def save_adapter(
        self,
        folder: Path,
        *,
        base_name: str,
        revision: str | None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Write the adapter in PEFT's layout; the same weights give the same bytes.

        `weights` is what `adapter_state` returned earlier; without it they are those of now.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            weights or self.adapter_state(), folder / "adapter_model.safetensors", {"format": "pt"}
        )
        config = self.lora_config.to_dict() | {
            "base_model_name_or_path": base_name,
            "revision": revision,
            "inference_mode": True,
        }
        text = json.dumps(config, indent=2, sort_keys=True, default=sorted)
        (folder / "adapter_config.json").write_text(text + "\n")

    def load_adapter(self, folder: Path) -> None:
        """Read weights that `save_adapter` wrote into the attached adapter."""
        self.load_adapter_state(load_file(folder / "adapter_model.safetensors"))
