"""text_similarity: how near two strings are, from 0 to 1."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from rapidfuzz import fuzz

from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.means import Means, means_of
from jobs.graders.offloaded import OffloadedGrader
from jobs.graders.template import Template

# Time grows with the product of the two lengths: 3e10 pairs take about a second.
MAX_CHARACTER_PAIRS = 30_000_000_000
SECONDS = 10.0

_NO_ENCODER = (
    "'cosine' compares embeddings, and this server has nothing that makes them: the operator can "
    "name a service in HONED_EMBEDDINGS, or an encoder of this machine in HONED_EMBEDDING_MODEL"
)
# Where nltk looks, less a home folder, which the processes that grade do not see.
_NLTK_DATA = [
    *(Path(sys.prefix, folder, "nltk_data") for folder in ("", "share", "lib")),
    *(Path(root, "nltk_data") for root in ("/usr/share", "/usr/local/share")),
    *(Path(root, "nltk_data") for root in ("/usr/lib", "/usr/local/lib")),
]
_WORDNET = ("corpora/wordnet", "corpora/wordnet.zip")

Metric = Literal[
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "cosine",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]


class TextSimilarity(OffloadedGrader):
    """Reward in 0..1; `pass_threshold` is kept and shown and does not change it."""

    type: Literal["text_similarity"]
    input: Template
    reference: Template
    evaluation_metric: Metric
    pass_threshold: float | None = Field(default=None, allow_inf_nan=False)

    @field_validator("evaluation_metric")
    @classmethod
    def _has_an_encoder(cls, metric: str, info: ValidationInfo) -> str:
        if metric == "cosine" and means_of(info).embed() is None:
            raise ValueError(f"{_NO_ENCODER}; or use 'fuzzy_match'")
        return metric

    @classmethod
    def limitations(cls, means: Means) -> list[str]:
        """Which metrics are refused here, or do less."""
        found = []
        if means.embed() is None:
            found.append(_NO_ENCODER)
        if not any((folder / name).exists() for folder in _NLTK_DATA for name in _WORDNET):
            found.append(
                "'meteor' matches no synonyms, as WordNet is not installed: put nltk's "
                "corpora/wordnet into /usr/share/nltk_data of the service and of every worker"
            )
        return found

    @property
    def waits(self) -> bool:
        """A fuzzy match is made here, the rest elsewhere."""
        return self.evaluation_metric != "fuzzy_match"

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """By the metric that the definition names."""
        text = self.input.render(sample, item)
        reference = self.reference.render(sample, item)
        if self.evaluation_metric == "fuzzy_match":
            return _fuzzy_match(text, reference)
        if self.evaluation_metric == "cosine":
            return self._cosine(text, reference)
        return self.run_offloaded(
            "similarity",
            seconds=SECONDS,
            metric=self.evaluation_metric,
            text=text,
            reference=reference,
        ).score

    def _cosine(self, text: str, reference: str) -> float:
        """max(0, a.b / |a||b|): opposite directions are no less alike than unrelated ones."""
        embed = self._means.embed()
        if embed is None:
            raise GradeFailure("model_grader_server_error", "this server makes no embeddings")
        if text == "" or reference == "":  # of which services make no embedding
            return float(text == reference)
        a, b = embed([text, reference])
        norm = math.hypot(*a) * math.hypot(*b)
        if len(a) != len(b) or norm == 0:
            raise GradeFailure("model_grader_server_error", "the embeddings cannot be compared")
        return min(1.0, max(0.0, math.fsum(x * y for x, y in zip(a, b, strict=True)) / norm))


def _fuzzy_match(text: str, reference: str) -> float:
    """Normalized insert/delete similarity: 1 - distance / (len(input) + len(reference)).

    https://rapidfuzz.github.io/RapidFuzz/Usage/fuzz.html#ratio. Not WRatio: that one pays 0.9
    to any long text with the reference somewhere in it, which a policy learns at once, and
    takes half a minute on 20,000 characters.
    """
    if len(text) * len(reference) > MAX_CHARACTER_PAIRS:
        raise GradeFailure(
            "other_error",
            f"{len(text)} and {len(reference)} characters are too many to compare",
        )
    return float(fuzz.ratio(text, reference)) / 100.0
