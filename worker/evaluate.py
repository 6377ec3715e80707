"""`python -m worker.evaluate`: base against adapter on held-out rows, with plain PEFT.

It knows nothing of the service: what it loads is what anybody would load.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH_ROWS = 64


def answers(
    model: Any,
    tokenizer: Any,
    prompts: list[list[dict[str, str]]],
    *,
    max_tokens: int,
    is_sampled: bool,
) -> list[str]:
    """One answer to each prompt: the likeliest tokens, or tokens drawn at temperature 1."""
    torch.manual_seed(0)
    sampling = (
        {"do_sample": True, "temperature": 1.0, "top_k": 0} if is_sampled else {"do_sample": False}
    )
    texts = []
    for start in range(0, len(prompts), BATCH_ROWS):
        batch = tokenizer.apply_chat_template(
            prompts[start : start + BATCH_ROWS],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=max_tokens, **sampling)
        new = ids[:, batch["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, help="folder or hub name of the base model")
    parser.add_argument("--adapter", required=True, help="folder of the downloaded adapter")
    parser.add_argument("--rows", required=True, type=Path, help="JSONL with `messages`")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--sample", action="store_true", help="draw at temperature 1, not greedily")
    arguments = parser.parse_args()

    with arguments.rows.open() as lines:
        rows = [json.loads(line) for line in lines]
    prompts = [row["messages"] for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    tokenizer.padding_side = "left"  # answers begin where their prompts end
    base = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
    how = {"max_tokens": arguments.max_tokens, "is_sampled": arguments.sample}
    before = answers(base, tokenizer, prompts, **how)
    tuned = PeftModel.from_pretrained(base, arguments.adapter)
    after = answers(tuned, tokenizer, prompts, **how)
    json.dump([{"base": b, "tuned": t} for b, t in zip(before, after, strict=True)], sys.stdout)


if __name__ == "__main__":
    main()
