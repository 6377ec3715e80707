"""The contract every grader type keeps: a definition checked once, a grade per sample."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from jobs.graders.grade import Grade, GradeFailure, Sample
from jobs.graders.template import Template, lookup, parse_path

_log = logging.getLogger(__name__)

OUTPUT_TEXT = Template("{{sample.output_text}}")


class GraderSpec(BaseModel, ABC):
    """One grader: a checked definition that turns samples into grades.

    Instances are frozen and hold no state, so threads may share one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: str
    name: Annotated[str, Field(max_length=256)] = Field(default="", validate_default=True)

    @field_validator("name", mode="before")
    @classmethod
    def _name_defaults_to_type(cls, value: object, info: ValidationInfo) -> object:
        return info.data.get("type") if value in (None, "") else value

    @abstractmethod
    def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The grade of one sample against its row. Never raises: a failure is a flag."""

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

    def dump(self) -> dict[str, Any]:
        """The definition as the wire shows it, defaults filled in; parses back to the same."""
        return self.model_dump(mode="json", exclude_none=True)


class ScoredGrader(GraderSpec):
    """A grader that is one function: `score` gives the number, `grade` deals with failures."""

    @abstractmethod
    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """The reward of one sample; raises GradeFailure where there is none."""

    def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The grade of one sample against its row. Never raises: a failure is a flag."""
        started = time.perf_counter()
        try:
            reward = float(self.score(sample, item))
            if not math.isfinite(reward):
                raise GradeFailure("other_error", f"the reward is {reward}, not a finite number")
        except GradeFailure as failure:
            return Grade(
                reward=None,
                errors=frozenset({failure.flag}),
                error_detail=failure.detail,
                seconds=time.perf_counter() - started,
            )
        except Exception as error:
            # One odd sample must not end a job; the log keeps the trace of what we overlooked.
            _log.exception("grader %s failed on a sample", self.name)
            return Grade(
                reward=None,
                errors=frozenset({"other_error"}),
                error_detail=f"{type(error).__name__}: {error}",
                seconds=time.perf_counter() - started,
            )
        return Grade(reward=reward, seconds=time.perf_counter() - started)


def _has(item: Mapping[str, Any], path: str) -> bool:
    try:
        lookup(item, parse_path(path))
    except LookupError:
        return False
    return True
