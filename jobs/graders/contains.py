"""contains: does the answer hold any, or all, of some strings."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from jobs.graders.base import OUTPUT_TEXT, ScoredGrader
from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.template import Template


class Contains(ScoredGrader):
    """Reward 1 where the input holds `any` (or `all`) of the values, else 0."""

    type: Literal["contains"]
    input: Template = OUTPUT_TEXT
    values: Annotated[list[Template], Field(min_length=1, max_length=1000)]
    mode: Literal["any", "all"] = "any"
    ignore_case: bool = False

    @field_validator("values")
    @classmethod
    def _no_empty_values(cls, values: list[Template]) -> list[Template]:
        if any(value.source == "" for value in values):
            raise ValueError("values holds an empty string, which every text contains")
        return values

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """1.0 or 0.0; a value that renders empty is a failure, since every text contains it."""
        text = self.input.render(sample, item)
        values = [value.render(sample, item) for value in self.values]
        if "" in values:
            raise GradeFailure("invalid_variable_error", "one of the values is empty for this row")
        if self.ignore_case:
            text = text.casefold()
            values = [value.casefold() for value in values]
        holds = any if self.mode == "any" else all
        return float(holds(value in text for value in values))
