"""reasoning_gym: a task's own scorer, for rows that reasoning-gym made."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from jobs.graders.base import OUTPUT_TEXT
from jobs.graders.grade import GradeFailure, Sample, Scored
from jobs.graders.means import Means, means_of
from jobs.graders.offload import cage
from jobs.graders.offload.pool import OffloadFailed, OffloadTimeout
from jobs.graders.offloaded import OffloadedGrader
from jobs.graders.template import Template

SECONDS = 10.0


class ReasoningGym(OffloadedGrader):
    """Reward as the task's scorer gives it, mostly 0 to 1.

    The row is the entry: `answer`, `metadata` and, where the scorer reads it, `question`.
    """

    type: Literal["reasoning_gym"]
    task: Annotated[str, Field(min_length=1, max_length=100)]
    input: Template = OUTPUT_TEXT

    @field_validator("task")
    @classmethod
    def _is_known(cls, task: str, info: ValidationInfo) -> str:
        if problem := unavailable():
            raise ValueError(problem)
        try:
            found = means_of(info).offload.call("gym", seconds=SECONDS, task=task)
        except (OffloadFailed, OffloadTimeout) as error:
            raise ValueError(f"the task could not be looked up: {error}") from None
        if found.problem:
            raise ValueError(found.problem)
        return task

    @classmethod
    def why_unusable(cls, means: Means) -> str | None:
        """Where the package or its cage is missing."""
        return unavailable()

    def item_paths(self) -> set[str]:
        """A row must have what every scorer reads."""
        return super().item_paths() | {"answer", "metadata"}

    def scored(self, sample: Sample, item: Mapping[str, Any]) -> Scored:
        """An answer on which the scorer raises is a wrong one: 0, and counted."""
        if missing := self.missing_item_paths(item):
            raise GradeFailure("invalid_variable_error", f"item.{missing[0]} is not there")
        entry = _entry(item)
        text = self.input.render(sample, item)
        found = self.run_offloaded("gym", seconds=SECONDS, task=self.task, text=text, entry=entry)
        if found.problem:
            raise GradeFailure("invalid_variable_error", found.problem)
        if found.note:
            return Scored(0.0, incidents={"scorer_raised": 1})
        return Scored(found.score)

    def row_problem(self, item: Mapping[str, Any]) -> str | None:
        """An entry whose own answer makes the task's scorer raise."""
        return self.row_problems([item])[0]

    def row_problems(self, items: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """As `row_problem`, many at a time."""
        return self.faults("gym", [_entry(item) for item in items], task=self.task)


def _entry(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "question": item.get("question", ""),
        "answer": item["answer"],
        "metadata": item["metadata"],
    }


def unavailable() -> str | None:
    """Why this type cannot be used here, or None."""
    if importlib.util.find_spec("reasoning_gym") is None:
        return "reasoning-gym is not installed on this server: pip install reasoning-gym"
    if not cage.is_caged():
        return (
            "reasoning-gym's scorers evaluate parts of an answer as code, and this server cannot "
            "isolate them: install bubblewrap, and let it use user namespaces"
        )
    return None
