"""length: reward an answer for its length in words, characters or tokens."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs.graders.base import OUTPUT_TEXT, ScoredGrader
from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.template import Template

_Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
_PositiveCount = Annotated[int, Field(ge=1, le=1_000_000_000)]


class SoftOverlong(BaseModel):
    """DAPO's penalty: none up to `max - cache`, then down to -1 at `max`, and -1 beyond."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max: _PositiveCount
    cache: _PositiveCount

    @model_validator(mode="after")
    def _cache_fits(self) -> "SoftOverlong":
        if self.cache > self.max:
            raise ValueError(f"cache ({self.cache}) must not exceed max ({self.max})")
        return self

    def penalty(self, length: int) -> float:
        """0 to -1. DAPO, eq. 13, https://arxiv.org/abs/2503.14476.

        With y the answer: 0 if |y| <= L_max - L_cache; ((L_max - L_cache) - |y|) / L_cache if
        |y| <= L_max; else -1.
        """
        return max(-1.0, min(0.0, (self.max - self.cache - length) / self.cache))


class Length(ScoredGrader):
    """One of three rules: a target with a falloff, a range, or the soft overlong penalty.

    Words are what whitespace separates, characters are Unicode code points, tokens are those the
    model sampled, reasoning included.
    """

    nested: ClassVar = {"soft_overlong": SoftOverlong}

    type: Literal["length"]
    input: Template = OUTPUT_TEXT
    unit: Literal["words", "characters", "tokens"]
    target: _PositiveCount | None = None
    falloff: _PositiveCount | None = None
    min: _Count | None = None
    max: _Count | None = None
    soft_overlong: SoftOverlong | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> "Length":
        has_range = self.min is not None or self.max is not None
        if (self.target is not None) + has_range + (self.soft_overlong is not None) != 1:
            raise ValueError("give exactly one rule: target, or min and/or max, or soft_overlong")
        if self.falloff is not None and self.target is None:
            raise ValueError("falloff belongs to target")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) must not exceed max ({self.max})")
        if self.unit == "tokens" and self.input != OUTPUT_TEXT:
            raise ValueError("tokens are counted on the completion: leave out input")
        return self

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """0..1 for a target, 0 or 1 for a range, -1..0 for soft_overlong."""
        length = self._length(sample, item)
        if self.soft_overlong is not None:
            return self.soft_overlong.penalty(length)
        if self.target is not None:
            return max(0.0, 1.0 - abs(length - self.target) / (self.falloff or self.target))
        is_long_enough = self.min is None or length >= self.min
        return float(is_long_enough and (self.max is None or length <= self.max))

    def _length(self, sample: Sample, item: Mapping[str, Any]) -> int:
        if self.unit == "tokens":
            if sample.num_tokens is None:
                raise GradeFailure("other_error", "this sample comes without a token count")
            return sample.num_tokens
        text = self.input.render(sample, item)
        return len(text) if self.unit == "characters" else len(text.split())
