"""How much memory a job will need at its peak, from its numbers and its model's shape alone.

The model is built without weights, so the count is exact for any architecture; what one pass keeps
for the backward pass is counted per layer and token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from jobs.errors import JobFailure
from jobs.status import Reason
from worker.grpo.cache import cache_bytes
from worker.grpo.fused import is_fused, product_bytes
from worker.grpo.hf_sampler import MAX_CACHE_BYTES
from worker.grpo.logprobs import CHUNK_LOGITS
from worker.grpo.lora import MAX_WEIGHTS
from worker.plan import MAX_PROBE_TOKENS, micro_batch_tokens

BASE_DTYPE = {"cpu": torch.float32, "cuda": torch.bfloat16}

# The interpreter, the libraries and, on a GPU, its context.
RUNTIME_BYTES = {"cpu": 400 << 20, "cuda": 1 << 30}

# Per adapter weight, in fp32: itself, its gradient, Adam's two moments, and the copy of it and of
# the moments that a step under way can go back to.
ADAPTER_BYTES = 4 * (1 + 1 + 2 + 3)

# Per logit of a chunk, in fp32: itself, scaled, its log-softmax, what the entropy makes of it, and
# the gradients of these.
LOGIT_BYTES = 4 * 8

# Per logit of all rows that are drawn at a time: itself, and before the first token its prompt's.
ROW_LOGIT_BYTES = 4 * 2

# Per logit of a chunk of them: scaled, log-softmax and probability in fp32, cumulated in fp64.
DRAW_LOGIT_BYTES = 4 * 3 + 8


@dataclass(frozen=True)
class Forecast:
    """Bytes at the peak on one kind of device."""

    weights: int
    adapter: int
    """Adapter, gradients, optimizer, and the copies that undo an interrupted step."""
    sampling: int
    """Keys, values and logits of the rollouts that are drawn at a time, and `copies`."""
    training: int
    """What a forward pass keeps for its backward pass, logits and sums of weights included."""
    runtime: int
    graders: int
    """Models of this machine that the grader asks."""
    total: int
    """With the sizes that are chosen where there is room for them."""
    least: int
    """With one sequence at a time: a device that has less cannot train the job."""

    device: str
    num_parameters: int
    sums: int
    """Sums of weights and adapters, which a pass of a small model on a CPU holds."""
    copies: int
    """What sampling holds of the kind: all of the decoder's products where they are fused."""
    cache_token_bytes: int
    """Keys and values of one token of one row."""
    training_token_bytes: int
    """What one token of a pass keeps for the backward pass."""
    vocab_size: int


def pass_bytes(memory: dict[str, Any], num_tokens: int) -> int:
    """What a forward and backward pass of so many tokens holds, by a forecast as a dict."""
    num_logits = min(num_tokens * memory["vocab_size"], CHUNK_LOGITS)
    return int(num_tokens * memory["training_token_bytes"] + num_logits * LOGIT_BYTES)


def draw_bytes(memory: dict[str, Any], num_rows: int) -> int:
    """What drawing a token of each of so many rows holds, by a forecast as a dict."""
    num_logits = num_rows * memory["vocab_size"]
    chunk = min(num_logits, max(CHUNK_LOGITS, memory["vocab_size"]))
    return int(num_logits * ROW_LOGIT_BYTES + chunk * DRAW_LOGIT_BYTES)


class Shape:
    """What the forecast must know of a base model."""

    def __init__(self, folder: Path) -> None:
        """Raises JobFailure when the architecture is not one that transformers brings."""
        try:
            self.config: PretrainedConfig = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            with torch.device("meta"):
                self.model = AutoModelForCausalLM.from_config(self.config, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise JobFailure(
                Reason.MODEL_NOT_AVAILABLE,
                f"The model's architecture cannot be built: {error}",
                param="model",
            ) from error
        self.num_parameters = sum(p.numel() for p in self.model.parameters())

    def fused_bytes(self, device: str) -> int | None:
        """What the products of the fused decoder take on `device`, None where it is not used."""
        decoder, dtype = self.model.get_decoder(), BASE_DTYPE[device]
        fits = is_fused(decoder, num_weights=self.num_parameters, device=device, dtype=dtype)
        return product_bytes(decoder) if fits else None

    def adapter_parameters(self, *, rank: int, target_modules: str | list[str]) -> tuple[int, int]:
        """Weights of the layers that a LoRA adapter is put on, and its own.

        Its own are rank x (inputs + outputs) of each layer.
        """
        head = self.model.get_output_embeddings()
        adapted = adapter = 0
        for name, module in self.model.named_modules():
            if not isinstance(module, nn.Linear | Conv1D) or module is head:
                continue
            if target_modules == "all-linear" or name.rsplit(".", 1)[-1] in target_modules:
                adapted += module.weight.numel()
                adapter += rank * sum(module.weight.shape)
        return adapted, adapter

    def activation_elements(self) -> int:
        """Numbers that the forward pass of one token keeps for the backward pass.

        A layer keeps the input of each of its linear maps once, and what normalisation, rotation,
        attention and gating need of their own inputs.
        """
        text = self.config.get_text_config()
        hidden, layers = text.hidden_size, text.num_hidden_layers
        heads = text.num_attention_heads
        size = getattr(text, "head_dim", None) or hidden // heads
        queries = heads * size
        keys = (getattr(text, "num_key_value_heads", None) or heads) * size
        inner = getattr(text, "intermediate_size", None) or 4 * hidden
        return int(layers * (8 * hidden + 5 * queries + 5 * keys + 5 * inner) + 6 * hidden)


def forecast(
    shape: Shape,
    hyperparameters: dict[str, Any],
    *,
    longest_prompt_tokens: int,
    context_length: int,
    device: str,
    grader_bytes: int = 0,
) -> Forecast:
    """The peak of a job on `device`, `cpu` or `cuda`, beside models that its grader asks.

    A completion length that is still `auto` counts as the longest that it may come to.
    """
    dtype = BASE_DTYPE[device]
    lora = hyperparameters["lora"]
    completion = hyperparameters["max_completion_tokens"]
    if not isinstance(completion, int):
        completion = min(context_length - longest_prompt_tokens, MAX_PROBE_TOKENS)
    row = longest_prompt_tokens + completion
    num_rows = hyperparameters["batch_size"] * hyperparameters["group_size"]
    adapted, adapter = shape.adapter_parameters(
        rank=lora["rank"], target_modules=lora["target_modules"]
    )
    sums = adapted * 4 if device == "cpu" and shape.num_parameters <= MAX_WEIGHTS else 0
    fused = shape.fused_bytes(device)
    facts: dict[str, Any] = {
        "weights": shape.num_parameters * dtype.itemsize,
        "adapter": adapter * ADAPTER_BYTES,
        "runtime": RUNTIME_BYTES[device],
        "graders": grader_bytes,
        "device": device,
        "num_parameters": shape.num_parameters,
        "sums": sums,
        "copies": sums if fused is None else fused,
        "cache_token_bytes": cache_bytes(shape.config, dtype),
        "training_token_bytes": shape.activation_elements() * dtype.itemsize,
        "vocab_size": shape.config.get_text_config().vocab_size,
    }
    micro_batch = max(micro_batch_tokens(shape.num_parameters, device), row)
    cache = min(num_rows * row * facts["cache_token_bytes"], MAX_CACHE_BYTES[device])
    at_a_time = max(1, min(num_rows, cache // (row * facts["cache_token_bytes"])))
    cache += draw_bytes(facts, at_a_time)
    usual = _parts(facts, cache, min(micro_batch, num_rows * row))
    least = _parts(facts, row * facts["cache_token_bytes"] + draw_bytes(facts, 1), row)
    totals = {"total": _total(facts, **usual), "least": _total(facts, **least)}
    return Forecast(**{**facts, **usual, **totals})


# What is held through sampling and training alike.
ALWAYS = ("weights", "adapter", "runtime", "graders")


def _parts(facts: dict[str, Any], cache: int, num_tokens: int) -> dict[str, int]:
    return {
        "sampling": cache + facts["copies"],
        "training": pass_bytes(facts, num_tokens) + facts["sums"],
    }


def _total(facts: dict[str, Any], *, sampling: int, training: int) -> int:
    # Sampling and training take turns in a GPU's memory, which a CPU's allocator keeps apart.
    both = max(sampling, training) if facts["device"] == "cuda" else sampling + training
    return int(sum(facts[name] for name in ALWAYS) + both)
