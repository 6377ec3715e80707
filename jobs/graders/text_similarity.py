"""text_similarity: how near two strings are, from 0 to 1."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator
from rapidfuzz import fuzz

from jobs.graders.base import ScoredGrader
from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.template import Template

# Time grows with the product of the two lengths: 3e10 pairs take about a second.
MAX_CHARACTER_PAIRS = 30_000_000_000
_NOT_YET = (
    *("bleu", "gleu", "meteor", "cosine"),
    *("rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"),
)


class TextSimilarity(ScoredGrader):
    """Reward in 0..1; `pass_threshold` is kept and shown and does not change it."""

    type: Literal["text_similarity"]
    input: Template
    reference: Template
    evaluation_metric: Literal["fuzzy_match"]
    pass_threshold: float | None = Field(default=None, allow_inf_nan=False)

    @field_validator("evaluation_metric", mode="before")
    @classmethod
    def _refuse_known_metrics(cls, metric: object) -> object:
        if metric in _NOT_YET:
            raise ValueError(f"{metric!r} is not available on this server yet: use 'fuzzy_match'")
        return metric

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """Normalized insert/delete similarity: 1 - distance / (len(input) + len(reference)).

        https://rapidfuzz.github.io/RapidFuzz/Usage/fuzz.html#ratio. Not WRatio: that one pays 0.9
        to any long text with the reference somewhere in it, which a policy learns at once, and
        takes half a minute on 20,000 characters.
        """
        text = self.input.render(sample, item)
        reference = self.reference.render(sample, item)
        if len(text) * len(reference) > MAX_CHARACTER_PAIRS:
            raise GradeFailure(
                "other_error",
                f"{len(text)} and {len(reference)} characters are too many to compare",
            )
        return float(fuzz.ratio(text, reference)) / 100.0
