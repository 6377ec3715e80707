"""What both sides are given: one folder with a model, its tokenizer and the prompts."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from benchmarks.presets import Shape, Workload
from benchmarks.side import PROMPTS_FILE
from jobs.registry import STARTER_FOLDER
from jobs.starter import arithmetic_rows
from worker.starter.tokenizer import render_prompt

HEAD_SCALE = 0.002  # So small that every token is about as likely as every other.


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the machine's settings depend on."""

    hidden_size: int
    num_weights: int


def prepare(workload: Workload, folder: Path) -> Prepared:
    """Write the model, its tokenizer and the prompts of all steps into `folder`."""
    if workload.shape is None:
        for file in STARTER_FOLDER.iterdir():
            if file.suffix in {".json", ".jinja", ".safetensors"}:
                shutil.copy(file, folder)
        model = Qwen3ForCausalLM.from_pretrained(folder)
        prompts = starter_prompts(workload)
    else:
        model = random_model(workload, workload.shape)
        model.save_pretrained(folder)
        tokenizer(workload.shape.vocab_size, first_eos_id(workload)).save_pretrained(folder)
        prompts = random_prompts(workload)
    (folder / PROMPTS_FILE).write_text(json.dumps(prompts))
    return Prepared(
        hidden_size=model.config.hidden_size,
        num_weights=sum(weights.numel() for weights in model.parameters()),
    )


def first_eos_id(workload: Workload) -> int:
    """Return the first of the ids, the last ones of the vocabulary, that end a completion.

    With k of V ids and tokens drawn uniformly, lengths are geometric with p = k / V, cut at the
    limit n: their mean is (1 - (1 - p)^n) / p.
    """
    assert workload.shape is not None
    vocab_size, limit = workload.shape.vocab_size, workload.max_completion_tokens

    def share(num_eos: int) -> float:
        p = num_eos / vocab_size
        return (1 - (1 - p) ** limit) / p / limit

    num_eos = min(range(1, vocab_size // 2), key=lambda k: abs(share(k) - workload.mean_share))
    return vocab_size - num_eos


def random_model(workload: Workload, shape: Shape) -> Qwen3ForCausalLM:
    """Return the model of a workload; the same seed gives the same weights."""
    eos_ids = list(range(first_eos_id(workload), shape.vocab_size))
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=4096,
        tie_word_embeddings=shape.is_tied,
        eos_token_id=eos_ids,
        pad_token_id=eos_ids[0],
        bos_token_id=None,
    )
    torch.manual_seed(workload.seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if workload.dtype == "bf16" else torch.float32)
    try:
        model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    with torch.no_grad():
        model.lm_head.weight.normal_(0.0, HEAD_SCALE)
    model.generation_config = GenerationConfig(eos_token_id=eos_ids, pad_token_id=eos_ids[0])
    return model


def tokenizer(vocab_size: int, eos_id: int) -> PreTrainedTokenizerFast:
    """Return a vocabulary of words t0, t1, ..., so that text and ids say the same."""
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(vocab_size)}, unk_token="t0"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=f"t{eos_id}", pad_token=f"t{eos_id}"
    )


def num_prompts_needed(workload: Workload) -> int:
    """Return how many prompts all steps together see, each of them once."""
    return workload.num_prompts * (workload.num_warmup_steps + workload.num_steps)


def random_prompts(workload: Workload) -> list[dict[str, Any]]:
    """Return prompts of random ids, as ids and as the text that TRL is given."""
    generator = torch.Generator().manual_seed(workload.seed)
    shortest = workload.prompt_tokens - workload.prompt_spread
    eos_id = first_eos_id(workload)
    prompts = []
    for i in range(num_prompts_needed(workload)):
        length = shortest + i % (2 * workload.prompt_spread + 1)
        ids = torch.randint(0, eos_id, (length,), generator=generator).tolist()
        prompts.append({"ids": ids, "prompt": " ".join(f"t{token}" for token in ids)})
    return prompts


def starter_prompts(workload: Workload) -> list[dict[str, Any]]:
    """Return the starter's own sums, as ids and as the messages that TRL is given."""
    rows = arithmetic_rows(num_prompts_needed(workload), workload.seed)
    starter = PreTrainedTokenizerFast.from_pretrained(STARTER_FOLDER)
    return [
        {"ids": starter.encode(render_prompt(row, starter)), "prompt": row["messages"]}
        for row in rows
    ]
