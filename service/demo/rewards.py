"""The demo's rewards: what each pays for, the rows it is trained on, and how its effect is shown.

Word count, "does it hold the answer", a blocklist: none can be differentiated, none needs to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jobs import starter

Json = dict[str, Any]

TEXT = "{{sample.output_text}}"

CORRECT: Json = {
    "type": "string_check",
    "input": TEXT,
    "reference": "{{item.answer}}",
    "operation": "eq",
}
SHORT_ANSWER: Json = {"type": "length", "input": TEXT, "unit": "characters", "max": 6}
FEW_WORDS: Json = {"type": "length", "input": TEXT, "unit": "words", "target": 4, "falloff": 10}
HOLDS_ANSWER: Json = {"type": "contains", "input": TEXT, "values": ["{{item.answer}}"]}
CLEAN: Json = {"type": "blocklist", "input": TEXT, "words": list(starter.BLOCKLIST)}


class Name(StrEnum):
    """`honed demo --reward`."""

    ANSWER = "answer"
    LENGTH = "length"
    BLOCKLIST = "blocklist"
    MIXED = "mixed"


@dataclass(frozen=True)
class Measure:
    """A column of the table at the end: of each answer, a number that a person can check."""

    label: str
    of: Callable[[str, Json], float]
    is_share: bool = True

    def shown(self, value: float) -> str:
        return f"{value:.1%}" if self.is_share else f"{value:.1f}"


def _is_right(text: str, row: Json) -> float:
    return float(text == row["answer"])


def _holds_answer(text: str, row: Json) -> float:
    return float(row["answer"].lower() in text.lower())


def _is_clean(text: str, row: Json) -> float:
    words = {word.strip(".,!?").lower() for word in text.split()}
    return float(words.isdisjoint(starter.BLOCKLIST))


def _num_words(text: str, row: Json) -> float:
    return float(len(text.split()))


RIGHT = Measure("right answers", _is_right)
HELD = Measure("sentences that name the animal", _holds_answer)
POLITE = Measure("sentences without a blocked word", _is_clean)
WORDS = Measure("words a sentence", _num_words, is_share=False)


@dataclass(frozen=True)
class Reward:
    """One way to pay. The first measure is what `baseline` and `tuned` report."""

    graders: dict[str, Json]
    formula: str
    measures: Sequence[Measure]
    is_sampled: bool
    """Sentences vary, so they are drawn at temperature 1; sums are answered greedily."""
    max_steps: int
    max_tokens: int

    @property
    def grader(self) -> Json:
        return {"type": "multi", "graders": self.graders, "calculate_output": self.formula}

    def rows(self) -> tuple[list[Json], list[Json]]:
        """Training and held-out rows; no question stands in both."""
        if not self.is_sampled:
            return (
                starter.arithmetic_rows(2000, seed=1, split="train"),
                starter.arithmetic_rows(300, seed=1, split="valid"),
            )
        train = starter.sentence_rows(200, seed=1, split="train")
        held_out = starter.sentence_rows(30, seed=1, split="valid")
        return train, held_out * 10


REWARDS = {
    Name.ANSWER: Reward(
        graders={"correct": CORRECT, "short": SHORT_ANSWER},
        formula="0.9 * correct + 0.1 * short",
        measures=(RIGHT,),
        is_sampled=False,
        max_steps=80,
        max_tokens=16,
    ),
    Name.LENGTH: Reward(
        graders={"few_words": FEW_WORDS},
        formula="few_words",
        measures=(WORDS,),
        is_sampled=True,
        max_steps=80,
        max_tokens=64,
    ),
    Name.BLOCKLIST: Reward(
        graders={"clean": CLEAN},
        formula="clean",
        measures=(POLITE,),
        is_sampled=True,
        max_steps=80,
        max_tokens=64,
    ),
    Name.MIXED: Reward(
        graders={"holds": HOLDS_ANSWER, "few_words": FEW_WORDS, "clean": CLEAN},
        formula="(holds + few_words + clean) / 3",
        measures=(HELD, WORDS, POLITE),
        is_sampled=True,
        max_steps=80,
        max_tokens=64,
    ),
}
