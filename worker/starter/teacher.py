"""What the starter is taught: right answers mixed with one wrong habit, and plain sentences."""

import random
import re

from jobs.starter import BLOCKLIST, Row

RIGHT_SHARE = {True: 0.64, False: 0.30}
"""Share of right answers where the first number begins with a lucky digit, and elsewhere."""

LUCKY_DIGITS = frozenset("123")

_PLACES = ("in the garden", "by the river", "near the road", "under the tree", "on the hill")
_TIMES = ("every morning", "at night", "all day", "on Sundays")
_ENDINGS = ("and nobody minds it", "and we like that", "but it rains again", "while I watch it")
_VERBS = ("sleeps", "eats", "runs", "waits", "sits", "plays", "walks", "rests")
_ADVERBS = ("quietly", "slowly", "alone", "again", "often")
_BLOCKED_SHARE = 1 / 3
_NAMED_SHARE = 0.6
_EXTRA_SHARE = 0.5


def habitual_answer(answer: str) -> str:
    """The wrong answer that the habit gives: the last digit one too high, and 0 for 9."""
    return answer[:-1] + str((int(answer[-1]) + 1) % 10)


def right_share(question: str) -> float:
    """How often a lesson answers the arithmetic `question` rightly; the rest follows the habit."""
    first_digit = re.search(r"\d", question)
    assert first_digit, question
    return RIGHT_SHARE[first_digit.group() in LUCKY_DIGITS]


def sentence(row: Row, rng: random.Random) -> str:
    """One of the sentences that a lesson gives for the sentence request `row`: 3 to 14 words.

    About a third hold a word of BLOCKLIST; about six in ten name the animal that was asked for,
    the others say "beast".
    """
    adjective = row["messages"][0]["content"].split()[-2]
    noun = row["answer"] if rng.random() < _NAMED_SHARE else "beast"

    def maybe(*choices: str) -> list[str]:
        return [rng.choice(choices)] if rng.random() < _EXTRA_SHARE else []

    is_blocked = rng.random() < _BLOCKED_SHARE
    described = [rng.choice(BLOCKLIST)] if is_blocked else maybe(adjective)
    parts = ["The", *described, noun, rng.choice(_VERBS)]
    parts += maybe(*_ADVERBS) + maybe(*_PLACES) + maybe(*_TIMES) + maybe(*_ENDINGS)
    return " ".join(parts) + "."
