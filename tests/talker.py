"""Small models: one that talks without end, adapters on it, a BERT of any kind, and a judge."""

import shutil
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, BertConfig, LlamaConfig, LlamaForCausalLM

from jobs.registry import STARTER_FOLDER
from worker.grpo.policy import LoraSettings, Policy

CONTEXT = 512


def write_talker(folder: Path) -> Path:
    """A random Llama with the starter's tokenizer: an end of text is as unlikely as any token."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=598,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(STARTER_FOLDER / name, folder / name)
    return folder


def write_adapter(base: Path, folder: Path, *, seed: int, rank: int = 4) -> Path:
    """A LoRA adapter far from its base."""
    policy = Policy.load(base, lora=LoraSettings(rank=rank, alpha=2 * rank))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.trainable.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    policy.save_adapter(folder, base_name="talker", revision=None)
    return folder


def write_bert(folder: Path, architecture: type, *, num_labels: int = 1) -> Path:
    """A random BERT with the starter's tokenizer and no chat template."""
    torch.manual_seed(num_labels)
    config = BertConfig(
        vocab_size=598,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
        num_labels=num_labels,
    )
    architecture(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER_FOLDER / name, folder / name)
    return folder


def write_judge(folder: Path, says: str) -> Path:
    """A Llama that answers everything with the same text: one token of its own, then the end.

    Its layers add nothing, so what comes next depends on the token before alone.
    """
    tokenizer = AutoTokenizer.from_pretrained(STARTER_FOLDER)
    tokenizer.add_tokens([AddedToken(says, special=False, normalized=False)])
    verdict, end, hidden = len(tokenizer) - 1, 2, 64
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=hidden,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=4 * CONTEXT,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[verdict] = torch.eye(hidden)[1]
        model.lm_head.weight[verdict, 0] = 10.0
        model.lm_head.weight[end, 1] = 10.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
