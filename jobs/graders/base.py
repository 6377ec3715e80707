"""The contract every grader type keeps: a definition checked once, a grade per sample."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from jobs.graders.grade import Grade, GradeFailure, Sample, Scored
from jobs.graders.means import Means
from jobs.graders.strict import Strict
from jobs.graders.template import Template, lookup, parse_path

_log = logging.getLogger(__name__)

OUTPUT_TEXT = Template("{{sample.output_text}}")


class GraderSpec(Strict, ABC):
    """One grader: a checked definition that turns samples into grades.

    Instances are frozen and hold no state, so threads may share one.
    """

    type: str
    name: Annotated[str, Field(max_length=256)] = Field(default="", validate_default=True)

    @field_validator("name", mode="before")
    @classmethod
    def _name_defaults_to_type(cls, value: object, info: ValidationInfo) -> object:
        return info.data.get("type") if value in (None, "") else value

    # Objects inside the definition, by the field that holds them.
    nested: ClassVar[Mapping[str, Any]] = {}

    @property
    def waits(self) -> bool:
        """Whether a grade is mostly spent waiting for another process or machine."""
        return False

    @property
    def asks_judges(self) -> bool:
        """Whether a grade costs a judge's tokens."""
        return False

    @property
    def concurrency(self) -> int:
        """How many samples can be graded at a time; more would only wait."""
        return 2

    @classmethod
    def why_unusable(cls, means: Means) -> str | None:
        """Why no grader of this type can be used with these means, and what to install or set."""
        return None

    @classmethod
    def limitations(cls, means: Means) -> list[str]:
        """What a grader of this type cannot do with these means, a sentence each."""
        return []

    @property
    def warnings(self) -> list[str]:
        """What its author should know, a sentence each. Some is known only after `check`."""
        return []

    def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The grade of one sample against its row. Never raises: a failure is a flag."""
        return self._whatever_happens(1, lambda: [self.graded(sample, item)])[0]

    def grade_group(self, samples: Sequence[Sample], item: Mapping[str, Any]) -> list[Grade]:
        """A grade for each of several answers to one row, in their order. Never raises."""
        return self._whatever_happens(len(samples), lambda: self.graded_group(samples, item))

    @abstractmethod
    def graded(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """How a type does `grade`; it may raise, GradeFailure where the flag is known."""

    def graded_group(self, samples: Sequence[Sample], item: Mapping[str, Any]) -> list[Grade]:
        """How a type does `grade_group`: by default one by one."""
        return [self.grade(sample, item) for sample in samples]

    def _whatever_happens(self, count: int, work: Callable[[], list[Grade]]) -> list[Grade]:
        """So many grades, each a finite number or a flag: the one place where that is made sure."""
        started = time.perf_counter()
        try:
            grades = [_checked(grade) for grade in work()]
            if len(grades) == count:
                return grades
            failure = GradeFailure("other_error", f"{len(grades)} grades for {count} samples")
        except GradeFailure as known:
            failure = known
        except Exception as error:
            # One odd sample must not end a job; the log keeps the trace of what we overlooked.
            _log.exception("grader %s failed on a sample", self.name)
            failure = GradeFailure("other_error", f"{type(error).__name__}: {error}")
        failed = Grade.failed(failure, seconds=time.perf_counter() - started)
        # What the failure cost was spent once.
        return [failed, *[replace(failed, usage={})] * (count - 1)]

    def check(self) -> None:
        """Find out what only trying can tell. Raises GraderInvalid, or Unavailable for now."""

    @property
    def is_group_aware(self) -> bool:
        """Whether the siblings of one prompt are graded together, by `grade_group`."""
        return False

    def templates(self) -> Iterator[Template]:
        """Every template in the definition."""
        for value in self.__dict__.values():
            if isinstance(value, Template):
                yield value
            elif isinstance(value, list):
                yield from (part for part in value if isinstance(part, Template))

    def item_paths(self) -> set[str]:
        """The row fields that the definition reads, such as `answer` or `meta.tags[0]`."""
        return {path for template in self.templates() for path in template.item_paths()}

    def missing_item_paths(self, item: Mapping[str, Any]) -> list[str]:
        """Those of `item_paths` that a row does not have, sorted."""
        return sorted(path for path in self.item_paths() if not _has(item, path))

    def row_problem(self, item: Mapping[str, Any]) -> str | None:
        """Why a row that has every field cannot be graded whatever the answer, or None."""
        return None

    def row_problems(self, items: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """The `row_problem` of each of many rows, in their order."""
        return [self.row_problem(item) for item in items]

    def dump(self) -> dict[str, Any]:
        """The definition as the wire shows it, defaults filled in; parses back to the same."""
        return self.model_dump(mode="json", exclude_none=True)


class ScoredGrader(GraderSpec):
    """A grader that is one function: `score`, or `scored`, gives the number or raises."""

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """The reward of one sample; raises GradeFailure where there is none."""
        raise NotImplementedError(f"{type(self).__name__} defines score or scored")

    def scored(self, sample: Sample, item: Mapping[str, Any]) -> Scored:
        """As `score`, for graders that have more to say than a number."""
        return Scored(float(self.score(sample, item)))

    def graded(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """What `scored` gives, as a grade."""
        started = time.perf_counter()
        scored = self.scored(sample, item)
        return Grade(
            reward=scored.reward,
            seconds=time.perf_counter() - started,
            usage=scored.usage,
            judge_model=scored.judge_model,
            incidents=scored.incidents,
        )


def _checked(grade: Grade) -> Grade:
    """The grade, or what is wrong with it as a flag."""
    if grade.reward is None:
        if grade.errors:
            return grade
        detail = "the grader gave neither a reward nor a reason"
    elif isinstance(grade.reward, (int, float)) and math.isfinite(grade.reward):
        return grade
    else:
        detail = f"the reward is {grade.reward}, not a finite number"
    return replace(
        grade,
        reward=None,
        errors=frozenset({"other_error"}),
        error_detail=detail,
        details={"other_error": detail},
    )


def _has(item: Mapping[str, Any], path: str) -> bool:
    try:
        lookup(item, parse_path(path))
    except LookupError:
        return False
    return True
