"""math: is the answer mathematically equal to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from jobs.graders.base import OUTPUT_TEXT
from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.offloaded import OffloadedGrader
from jobs.graders.template import Template

_MAX_SHOWN_CHARS = 80


class Math(OffloadedGrader):
    """Reward 1 where the last expression of the input equals the reference, else 0.

    Numbers, LaTeX, sets, intervals, matrices and equations, by math-verify.
    """

    type: Literal["math"]
    input: Template = OUTPUT_TEXT
    reference: Template
    timeout_seconds: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 5.0

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """1.0 or 0.0; an input without mathematics gets 0.0, such a reference is a failure."""
        text = self.input.render(sample, item)
        reference = self.reference.render(sample, item)
        found = self.run_offloaded(
            "equivalence", seconds=self.timeout_seconds, text=text, reference=reference
        )
        if found.problem:
            raise GradeFailure(
                "invalid_variable_error",
                f"the reference {reference[:_MAX_SHOWN_CHARS]!r} holds no mathematics",
            )
        return found.score

    def row_problem(self, item: Mapping[str, Any]) -> str | None:
        """A reference that the row alone makes, and that holds no mathematics."""
        return self.row_problems([item])[0]

    def row_problems(self, items: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """As `row_problem`, many at a time."""
        if self.reference.reads_sample:
            return [None] * len(items)
        try:
            references = [self.reference.render(Sample(""), item) for item in items]
        except GradeFailure as failure:
            if len(items) == 1:
                return [failure.detail]
            return [problem for item in items for problem in self.row_problems([item])]
        faults = self.faults("equivalence", references)
        return [
            fault and f"{fault}: {reference[:_MAX_SHOWN_CHARS]!r}"
            for fault, reference in zip(faults, references, strict=True)
        ]
