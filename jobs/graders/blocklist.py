"""blocklist: no reward for an answer with a blocked word in it."""

import functools
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from jobs.graders.base import OUTPUT_TEXT, ScoredGrader
from jobs.graders.grade import Sample
from jobs.graders.template import Template

MAX_WORD_TOKENS = 16
# Unicode's Stream-Safe Text Format (UAX 15): sorting an endless run of marks takes quadratic time.
_MAX_MARKS_IN_A_ROW = 30
# These two decompose into marks although they are letters.
_HALFWIDTH_MARKS = "\uff9e\uff9f"
# Scripts that put no spaces between words: each character counts as a word of its own.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ")


class Blocklist(ScoredGrader):
    """Reward 1 for a clean input, 0 where a blocked word or phrase stands in it.

    Whole words only, in any case, width or composition (NFKC, case folding); invisible characters
    inside a word do not hide it.
    """

    type: Literal["blocklist"]
    input: Template = OUTPUT_TEXT
    words: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]],
        Field(min_length=1, max_length=10_000),
    ]

    # From the number of tokens in a blocked phrase to all such phrases.
    _phrases: dict[int, frozenset[tuple[str, ...]]] = PrivateAttr()

    @field_validator("words")
    @classmethod
    def _have_tokens(cls, words: list[str]) -> list[str]:
        for word in words:
            if not 0 < len(tokens(word)) <= MAX_WORD_TOKENS:
                raise ValueError(f"{word!r} is not 1 to {MAX_WORD_TOKENS} words or signs long")
        return words

    def model_post_init(self, _: Any) -> None:
        """Group the phrases by length, so that grading is one set lookup a position."""
        phrases = {tuple(tokens(word)) for word in self.words}
        self._phrases = {
            length: frozenset(phrase for phrase in phrases if len(phrase) == length)
            for length in {len(phrase) for phrase in phrases}
        }

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """1.0 when clean, 0.0 when blocked."""
        words = tokens(self.input.render(sample, item))
        for length, phrases in self._phrases.items():
            windows = zip(*(words[start:] for start in range(length)), strict=False)
            if not phrases.isdisjoint(windows):
                return 0.0
        return 1.0


def tokens(text: str) -> list[str]:
    """The words and signs of a text, folded so that look-alikes of one word are equal."""
    text = _with_short_mark_runs(text)
    text = unicodedata.normalize("NFKC", text).casefold()
    text = unicodedata.normalize("NFKC", text)
    return text.translate({ord(char): _spaced(char) for char in set(text)}).split()


@functools.lru_cache(maxsize=4096)
def _spaced(char: str) -> str:
    """The character as part of a word, or with spaces around it, or nothing if invisible."""
    category = unicodedata.category(char)
    name = unicodedata.name(char, "")
    if category == "Cf" or name.startswith("VARIATION SELECTOR"):
        return ""
    if category[0] in "LNM":
        return f" {char} " if name.startswith(_UNSPACED) else char
    return " " if char.isspace() or category == "Cc" else f" {char} "


def _with_short_mark_runs(text: str) -> str:
    if text.isascii():
        return text
    marks = {
        char
        for char in set(text)
        if unicodedata.category(char)[0] == "M" or char in _HALFWIDTH_MARKS
    }
    if not marks:
        return text
    kept = []
    run = 0
    for char in text:
        run = run + 1 if char in marks else 0
        if run <= _MAX_MARKS_IN_A_ROW:
            kept.append(char)
    return "".join(kept)
