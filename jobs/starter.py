"""The starter model's tasks, so that the demo, the tests and the build ask the same questions."""

import hashlib
import itertools
import random
from typing import Any, Literal

Split = Literal["train", "valid"]
Row = dict[str, Any]

ARITHMETIC_TASK = "basic_arithmetic"
"""The reasoning-gym family that the arithmetic rows come from."""

ARITHMETIC_CONFIG = {
    "min_terms": 2,
    "max_terms": 2,
    "min_digits": 2,
    "max_digits": 2,
    "operators": ["+"],
    "allow_parentheses": False,
}
"""Sums of two numbers from 0 to 100: "Calculate 47 + 38.", 10,201 questions."""

ARITHMETIC_ROWS_MAX: dict[Split, int] = {"train": 8_000, "valid": 1_500}
"""The most rows one call may ask for; somewhat fewer than there are distinct questions."""

SENTENCE_TASK = "sentence"
SENTENCE_QUESTION = "Write a short plain sentence about a {thing}."
SENTENCE_ADJECTIVES = (
    *("big", "black", "brave", "brown", "calm", "clean", "fluffy", "funny", "grey", "happy"),
    *("hungry", "little", "quiet", "shy", "sleepy", "small", "soft", "tame", "thin", "tired"),
    *("wet", "white", "wise", "young"),
)
SENTENCE_NOUNS = (
    *("badger", "bear", "bird", "camel", "cat", "chick", "cow", "crow", "deer", "dog"),
    *("donkey", "duck", "fox", "frog", "goat", "goose", "hare", "hen", "horse", "kitten"),
    *("lamb", "lion", "monkey", "mouse", "owl", "panda", "parrot", "pig", "pigeon", "pony"),
    *("puppy", "rabbit", "seal", "sheep", "snail", "swan", "tiger", "turtle", "wolf", "zebra"),
)
SENTENCE_ROWS_MAX: dict[Split, int] = {"train": 750, "valid": 170}
"""The most rows one call may ask for; somewhat fewer than there are distinct requests."""

BLOCKLIST = ("crappy", "damn", "dumb", "lousy", "stupid")
"""Mildly rude words; about a third of the starter's sentences hold one of them."""

_VALID_SHARE = 1 / 6


def split_of(question: str) -> Split:
    """The only split that `question` ever appears in, whatever the seed."""
    digest = hashlib.sha256(question.encode()).digest()
    return "valid" if int.from_bytes(digest[:4], "big") < _VALID_SHARE * 2**32 else "train"


def arithmetic_rows(count: int, seed: int, split: Split = "train") -> list[Row]:
    """`count` distinct questions of one split with their answers, ready to be written as JSONL.

    Question and answer are reasoning-gym's own. The same arguments give the same rows; rows of
    the two splits never share a question. Raises ValueError past ARITHMETIC_ROWS_MAX.
    """
    _check_count(count, split, ARITHMETIC_ROWS_MAX)
    # reasoning-gym draws row i from seed + i, so that neighbouring seeds would share most rows.
    dataset = _arithmetic_dataset(random.Random(seed).getrandbits(32))
    rows: dict[str, Row] = {}
    for index in itertools.count():
        if len(rows) == count:
            break
        entry = dataset[index]
        question = entry["question"]
        if split_of(question) == split:
            rows[question] = _row(question, entry["answer"], ARITHMETIC_TASK)
    return list(rows.values())


def score_arithmetic(answer: str, row: Row) -> float:
    """reasoning-gym's score of `answer` in [0, 1]: 1 is right, a part is for an answer inside."""
    return float(_arithmetic_dataset(0).score_answer(answer, row))


def sentence_rows(count: int, seed: int, split: Split = "train") -> list[Row]:
    """`count` distinct requests for a sentence about an animal; `answer` is the animal's name.

    The same arguments give the same rows; rows of the two splits never share a request. Raises
    ValueError past SENTENCE_ROWS_MAX.
    """
    _check_count(count, split, SENTENCE_ROWS_MAX)
    rows = [
        _row(SENTENCE_QUESTION.format(thing=f"{adjective} {noun}"), noun, SENTENCE_TASK)
        for adjective in SENTENCE_ADJECTIVES
        for noun in SENTENCE_NOUNS
    ]
    of_split = [row for row in rows if split_of(row["messages"][0]["content"]) == split]
    return random.Random(seed).sample(of_split, count)


def _arithmetic_dataset(seed: int) -> Any:
    # reasoning-gym comes with the demo extra: a service without the demo does without it.
    import reasoning_gym  # noqa: PLC0415

    return reasoning_gym.create_dataset(ARITHMETIC_TASK, seed=seed, **ARITHMETIC_CONFIG)


def _check_count(count: int, split: Split, limits: dict[Split, int]) -> None:
    if not 0 <= count <= limits[split]:
        raise ValueError(f"{split} rows must number 0 to {limits[split]}, not {count}.")


def _row(question: str, answer: str, task: str) -> Row:
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "answer": answer, "task": task}
