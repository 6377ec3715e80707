"""What the starter does, in numbers, for its README and its tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from jobs.starter import Row
from worker.starter.teacher import habitual_answer
from worker.starter.tokenizer import render_prompt


@dataclass(frozen=True, kw_only=True)
class ArithmeticMeasurement:
    """How the model answers held-out arithmetic rows."""

    greedy_accuracy: float
    """Share of rows whose greedy answer is right, to the character, and then ends."""
    mean_right: float
    """Mean probability, at temperature 1, of the right answer and then the end."""
    mean_right_or_habit: float
    """The same for the right or the habitual answer: one less this is neither."""
    right_quantiles: tuple[float, ...]
    """The 5th, 50th and 95th percentile of the right answer's probability over the rows."""


def measure_arithmetic(
    model: Any, tokenizer: PreTrainedTokenizerFast, rows: list[Row]
) -> ArithmeticMeasurement:
    """Greedy answers and exact answer probabilities on `rows`, with nothing sampled."""
    prompts = [render_prompt(row, tokenizer) for row in rows]
    answers = [row["answer"] for row in rows]
    greedy = generate(model, tokenizer, prompts, max_new_tokens=8, temperature=0)
    right = answer_probabilities(model, tokenizer, prompts, answers)
    habit = answer_probabilities(
        model, tokenizer, prompts, [habitual_answer(answer) for answer in answers]
    )
    quantiles = right.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=right.dtype))
    hits = [
        text == answer + tokenizer.eos_token for text, answer in zip(greedy, answers, strict=True)
    ]
    return ArithmeticMeasurement(
        greedy_accuracy=sum(hits) / len(hits),
        mean_right=right.mean().item(),
        mean_right_or_habit=(right + habit).mean().item(),
        right_quantiles=tuple(quantiles.tolist()),
    )


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
) -> list[str]:
    """One completion a prompt, with its end-of-turn token where there is one; 0 is greedy."""
    batch = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
    sequences = model.generate(**batch, max_new_tokens=max_new_tokens, **sampling)
    completions = tokenizer.batch_decode(sequences[:, batch["input_ids"].shape[1] :])
    return [text.replace(tokenizer.pad_token, "") for text in completions]


@torch.inference_mode()
def answer_probabilities(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    answers: Sequence[str],
) -> torch.Tensor:
    """[N] probability of each answer and then the end, at temperature 1, in float64."""
    endings = [tokenizer.encode(answer + tokenizer.eos_token) for answer in answers]
    texts = [
        prompt + answer + tokenizer.eos_token
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    logits = model(**batch).logits[:, :-1].double()
    logprobs = logits.log_softmax(-1).gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    return torch.stack(
        [row[-len(ending) :].sum().exp() for row, ending in zip(logprobs, endings, strict=True)]
    )
