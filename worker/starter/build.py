"""Builds the starter model from nothing: `python -m worker.starter.build --out DIR`."""

import argparse
import logging
import random
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from jobs.starter import ARITHMETIC_ROWS_MAX, SENTENCE_ROWS_MAX, arithmetic_rows, sentence_rows
from worker.grpo.policy import cache_argument
from worker.starter.lessons import (
    IGNORED,
    Lessons,
    arithmetic_lessons,
    batches,
    sentence_lessons,
)
from worker.starter.teacher import sentence
from worker.starter.tokenizer import CONTEXT_LENGTH, train_tokenizer

NUM_SENTENCES = 12_000
NUM_STEPS = 1_200
ARITHMETIC_BATCH = 64
SENTENCE_BATCH = 16
MUON_LEARNING_RATE = 0.02
ADAMW_LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
LOG_EVERY = 50

logger = logging.getLogger(__name__)


def build(out: Path, *, seed: int) -> None:
    """Trains the model on the teacher's answers and writes the Hugging Face folder `out`."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    arithmetic = arithmetic_rows(ARITHMETIC_ROWS_MAX["train"], seed)
    requests = sentence_rows(SENTENCE_ROWS_MAX["train"], seed)
    sentences = [(row, sentence(row, rng)) for row in rng.choices(requests, k=NUM_SENTENCES)]
    tokenizer = train_tokenizer(
        [row["messages"][0]["content"] for row in arithmetic + requests]
        + [text for _, text in sentences]
        + ["system", "user", "assistant"]
    )
    model = new_model(tokenizer)
    logger.info("%d parameters, %d tokens", model.num_parameters(), len(tokenizer))
    train(
        model,
        arithmetic=arithmetic_lessons(arithmetic, tokenizer),
        sentences=sentence_lessons(sentences, tokenizer),
        num_steps=NUM_STEPS,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A freshly initialised model of the starter's shape, in float32."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def lesson_loss(model: Qwen3ForCausalLM, lessons: Lessons, index: Tensor) -> Tensor:
    """Mean cross-entropy over the taught positions of the lessons `index`.

    At each position -(s log p(target) + (1 - s) log p(other target)), s the target's share.
    """
    # All lessons begin alike: the beginning is computed once and seen through the cache.
    name, prefix = cache_argument(model.model), DynamicCache(config=model.config)
    model.model(lessons.prefix_ids, use_cache=True, **{name: prefix})
    states = [(cast(Any, layer).keys, cast(Any, layer).values) for layer in prefix.layers]
    size = (len(index), -1, -1, -1)
    cache = DynamicCache([(keys.expand(size), values.expand(size)) for keys, values in states])
    output = model.model(lessons.input_ids[index], **{name: cache})

    targets = lessons.targets[index]
    taught = targets != IGNORED
    logprobs = model.lm_head(output.last_hidden_state[taught]).log_softmax(dim=-1)
    first = logprobs.gather(1, targets[taught][:, None])[:, 0]
    second = logprobs.gather(1, lessons.other_targets[index][taught][:, None])[:, 0]
    share = lessons.shares[index][:, None].expand(targets.shape)[taught]
    return -(share * first + (1 - share) * second).mean()


def train(
    model: Qwen3ForCausalLM, *, arithmetic: Lessons, sentences: Lessons, num_steps: int
) -> None:
    """Muon on the layers' matrices, AdamW on the rest; short warm-up, linear decay to zero.

    Muon (https://kellerjordan.github.io/posts/muon/) needs about a third of AdamW's steps here.
    """
    layers = list(model.model.layers.parameters())
    matrices = [parameter for parameter in layers if parameter.ndim == 2]
    others = [parameter for parameter in layers if parameter.ndim != 2]
    others += [*model.model.embed_tokens.parameters(), *model.model.norm.parameters()]
    optimizers = [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAMW_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [MUON_LEARNING_RATE, ADAMW_LEARNING_RATE]
    arithmetic_batches = batches(arithmetic, ARITHMETIC_BATCH)
    sentence_batches = batches(sentences, SENTENCE_BATCH)
    started = time.perf_counter()
    for step in range(num_steps):
        arithmetic_loss = lesson_loss(model, arithmetic, next(arithmetic_batches))
        sentence_loss = lesson_loss(model, sentences, next(sentence_batches))
        (arithmetic_loss + sentence_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scale = min((step + 1) / WARMUP_STEPS, 1 - step / num_steps)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = scale * peak
            optimizer.step()
            optimizer.zero_grad()
        if step % LOG_EVERY == 0 or step == num_steps - 1:
            losses = (arithmetic_loss.item(), sentence_loss.item())
            seconds = time.perf_counter() - started
            logger.info("step %d, %.0f s: arithmetic %.4f, sentences %.4f", step, seconds, *losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(arguments.out, seed=arguments.seed)


if __name__ == "__main__":
    main()
