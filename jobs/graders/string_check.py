"""string_check: compare two strings exactly, or look for one inside the other."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator

from jobs.graders.base import ScoredGrader
from jobs.graders.grade import Sample
from jobs.graders.template import Template


class StringCheck(ScoredGrader):
    """Reward 1 where the operation holds between input and reference, else 0.

    `like` asks whether the input contains the reference; `ilike` does so ignoring case.
    """

    type: Literal["string_check"]
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]

    @field_validator("operation", mode="before")
    @classmethod
    def _accept_neq(cls, value: object) -> object:
        # OpenAI's guide prints `ne` in the schema and `neq` in the list of operations.
        return "ne" if value == "neq" else value

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """1.0 or 0.0."""
        text = self.input.render(sample, item)
        reference = self.reference.render(sample, item)
        if self.operation == "eq":
            return float(text == reference)
        if self.operation == "ne":
            return float(text != reference)
        if self.operation == "like":
            return float(reference in text)
        return float(reference.casefold() in text.casefold())
