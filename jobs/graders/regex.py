"""regex: match a pattern, or compare what it captured with a reference."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from jobs.graders.base import OUTPUT_TEXT, ScoredGrader
from jobs.graders.grade import Sample
from jobs.graders.linear_regex import MAX_PATTERN_CHARS, LinearRegex, encoded
from jobs.graders.template import Template


class Regex(ScoredGrader):
    """Reward 1 where the pattern (RE2 syntax) matches the input, else 0.

    With a reference, 1 only where the first group of the leftmost match, or the whole match where
    the pattern has no group, equals the reference. The pattern itself is no template.
    """

    type: Literal["regex"]
    input: Template = OUTPUT_TEXT
    pattern: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARS)]
    mode: Literal["search", "fullmatch"] = "search"
    reference: Template | None = None

    _regex: LinearRegex = PrivateAttr()

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        LinearRegex(pattern)
        return pattern

    def model_post_init(self, _: Any) -> None:
        """Compile once (RE2's module caches the program that the check made)."""
        self._regex = LinearRegex(self.pattern)

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """1.0 or 0.0."""
        regex = self._regex
        text = self.input.render(sample, item)
        match = regex.search(text) if self.mode == "search" else regex.fullmatch(text)
        if match is None:
            return 0.0
        if self.reference is None:
            return 1.0
        found = match[1 if regex.groups else 0]
        return float(found == encoded(self.reference.render(sample, item)))
