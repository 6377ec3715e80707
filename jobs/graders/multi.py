"""multi: several graders and the formula that makes one reward of them."""

import re
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from jobs.graders.base import GraderSpec
from jobs.graders.blocklist import Blocklist
from jobs.graders.contains import Contains
from jobs.graders.formula import Formula
from jobs.graders.grade import ErrorFlag, Grade, GradeFailure, Sample
from jobs.graders.length import Length
from jobs.graders.number import Number
from jobs.graders.regex import Regex
from jobs.graders.repetition import Repetition
from jobs.graders.string_check import StringCheck
from jobs.graders.template import Template
from jobs.graders.text_similarity import TextSimilarity

SingleGrader = (
    StringCheck | TextSimilarity | Regex | Length | Contains | Blocklist | Number | Repetition
)

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Multi(GraderSpec):
    """Reward = calculate_output over the components' rewards, named by their keys.

    `graders` is a map from key to grader, or a list keyed by each grader's name, or one grader.
    """

    type: Literal["multi"]
    graders: Annotated[
        dict[str, Annotated[SingleGrader, Field(discriminator="type")]],
        Field(min_length=1, max_length=64),
    ]
    calculate_output: Formula

    @field_validator("graders", mode="before")
    @classmethod
    def _as_map(cls, graders: object) -> object:
        if isinstance(graders, dict) and isinstance(graders.get("type"), str):
            graders = [graders]
        if isinstance(graders, list):
            graders = _keyed(graders)
        if isinstance(graders, dict):
            for key in graders:
                if not _KEY.fullmatch(str(key)):
                    raise ValueError(
                        f"the key {key!r} cannot stand in a formula: "
                        "use letters, digits and _, a letter first, at most 64"
                    )
        return graders

    @field_validator("calculate_output")
    @classmethod
    def _uses_known_keys(cls, formula: Formula, info: ValidationInfo) -> Formula:
        graders = info.data.get("graders")
        if graders is None:  # They have an error of their own, which is told first.
            return formula
        for variable, place in formula.variables.items():
            if variable not in graders:
                raise ValueError(
                    f"unknown variable {variable!r} at character {place}: "
                    f"the graders are {', '.join(graders)}"
                )
        return formula

    def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """As every grader's, with each component's reward in `sub_rewards`.

        A component that fails leaves no reward, unless the formula does not use it.
        """
        started = time.perf_counter()
        rewards: dict[str, float | None] = {}
        errors: set[ErrorFlag] = set()
        details = []
        for key, grader in self.graders.items():
            part = grader.grade(sample, item)
            rewards[key] = part.reward
            if part.errors and key in self.calculate_output.variables:
                errors |= part.errors
                details.append(f"{key}: {part.error_detail}")
        reward = None
        if not errors:
            known = {key: value for key, value in rewards.items() if value is not None}
            try:
                reward = self.calculate_output.evaluate(known)
            except GradeFailure as failure:
                errors.add(failure.flag)
                details.append(failure.detail)
        return Grade(
            reward=reward,
            sub_rewards=rewards,
            errors=frozenset(errors),
            error_detail="; ".join(details) or None,
            seconds=time.perf_counter() - started,
        )

    def templates(self) -> Iterator[Template]:
        """Every template of every component."""
        for grader in self.graders.values():
            yield from grader.templates()


def _keyed(graders: list[object]) -> dict[str, object]:
    """A list of definitions by name, or by type for those without one."""
    keyed: dict[str, object] = {}
    for index, grader in enumerate(graders):
        if not isinstance(grader, dict):
            raise ValueError(f"grader {index} is not an object")
        key = str(grader.get("name") or grader.get("type"))
        if key in keyed:
            raise ValueError(f"two graders are named {key!r}: give each a name of its own")
        keyed[key] = grader
    return keyed
