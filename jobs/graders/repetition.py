"""repetition: reward an answer for not saying the same words over and over."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from jobs.graders.base import OUTPUT_TEXT, ScoredGrader
from jobs.graders.grade import Sample
from jobs.graders.template import Template


class Repetition(ScoredGrader):
    """Reward = distinct n-grams of words / all n-grams of words, in 0..1.

    1 means that nothing repeats; a text of fewer than `ngram` words gets 1. Words are what
    whitespace separates, without regard to case.
    """

    type: Literal["repetition"]
    input: Template = OUTPUT_TEXT
    ngram: Annotated[int, Field(ge=1, le=20)] = 4

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """Above 0, at most 1."""
        words = self.input.render(sample, item).casefold().split()
        num_ngrams = len(words) - self.ngram + 1
        if num_ngrams < 1:
            return 1.0
        distinct = set(zip(*(words[start:] for start in range(self.ngram)), strict=False))
        return len(distinct) / num_ngrams
