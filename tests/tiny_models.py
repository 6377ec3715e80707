"""Tiny random models of many families, and folders that hold one beside a tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from jobs.registry import STARTER_FOLDER

GQA = {"num_key_value_heads": 2}


def sizes(vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,  # Logits that differ enough between contexts to be taught.
        "head_dim": 8,
        "pad_token_id": None,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def families(vocab_size: int, *, is_tied: bool) -> dict[str, Callable[[], PreTrainedModel]]:
    """Each family with its head tied to the embeddings, or with weights of its own."""
    own = sizes(vocab_size) | {"tie_word_embeddings": is_tied}
    gpt2 = {
        "vocab_size": vocab_size,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 1024,
        "initializer_range": 0.2,
        "tie_word_embeddings": is_tied,
    }
    return {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**own)),
        "llama-gqa": lambda: LlamaForCausalLM(LlamaConfig(**own | GQA)),
        "qwen3-gqa": lambda: Qwen3ForCausalLM(Qwen3Config(**own | GQA)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**gpt2)),
        "gemma": lambda: GemmaForCausalLM(GemmaConfig(**own | GQA)),
    }


FAMILIES = {
    f"{name}-{'tied' if is_tied else 'untied'}": (name, is_tied)
    for is_tied in (True, False)
    for name in families(8, is_tied=is_tied)
}


def save_model(
    folder: Path,
    *,
    family: str = "llama-gqa",
    is_tied: bool = False,
    template: str | None = None,
    **changes: Any,
) -> PreTrainedTokenizerBase:
    """Save a random model beside the starter's byte-level tokenizer, changed; return that."""
    tokenizer = AutoTokenizer.from_pretrained(STARTER_FOLDER)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = families(len(tokenizer), is_tied=is_tied)[family]()
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
        config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    return tokenizer
