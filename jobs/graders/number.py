"""number: is the answer's number the right one, within a tolerance."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from jobs.graders.base import OUTPUT_TEXT, ScoredGrader
from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.template import Template

_Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# Every repetition is bounded and no match starts inside a run of digits: linear time.
_NUMBER = re.compile(
    r"(?<![0-9A-Za-z_.])[-+]?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,100}(?![0-9])(?:\.[0-9]{1,400})?"
    r"|[0-9]{1,400}(?:\.[0-9]{1,400})?|\.[0-9]{1,400})"
    r"(?:[eE][-+]?[0-9]{1,4})?(?![0-9A-Za-z_])"
)
_MINUS_SIGN = "\u2212"


class Number(ScoredGrader):
    """Reward 1 where the last number of the input equals the reference, else 0.

    Equal means |x - r| <= max(tolerance, relative_tolerance * |r|). Commas may group thousands.
    """

    type: Literal["number"]
    input: Template = OUTPUT_TEXT
    reference: Template
    tolerance: _Tolerance = 0.0
    relative_tolerance: _Tolerance = 0.0

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """1.0 or 0.0; an input without a number gets 0.0, such a reference is a failure."""
        expected = self._expected(sample, item)
        numbers = _NUMBER.findall(_ascii_minus(self.input.render(sample, item)))
        if not numbers:
            return 0.0
        allowed = max(self.tolerance, self.relative_tolerance * abs(expected))
        return float(abs(_value(numbers[-1]) - expected) <= allowed)

    def row_problem(self, item: Mapping[str, Any]) -> str | None:
        """A reference that the row alone makes, and that is no number."""
        if self.reference.reads_sample:
            return None
        try:
            self._expected(Sample(""), item)
        except GradeFailure as failure:
            return failure.detail
        return None

    def _expected(self, sample: Sample, item: Mapping[str, Any]) -> float:
        reference = self.reference.render(sample, item)
        match = _NUMBER.fullmatch(_ascii_minus(reference).strip())
        if match is None or not math.isfinite(expected := _value(match[0])):
            raise GradeFailure(
                "invalid_variable_error", f"the reference {reference[:40]!r} is not a number"
            )
        return expected


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _ascii_minus(text: str) -> str:
    return text.replace(_MINUS_SIGN, "-")
