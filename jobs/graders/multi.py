"""multi: several graders and the formula that makes one reward of them."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from jobs.errors import GraderInvalid, Unavailable
from jobs.graders.base import GraderSpec
from jobs.graders.blocklist import Blocklist
from jobs.graders.contains import Contains
from jobs.graders.endpoint import Endpoint
from jobs.graders.formula import Formula
from jobs.graders.grade import TYPED_FLAGS, ErrorFlag, Grade, GradeFailure, Sample, summed
from jobs.graders.json_schema import JsonSchema
from jobs.graders.label_model import LabelModel
from jobs.graders.length import Length
from jobs.graders.math import Math
from jobs.graders.means import BARE, Means
from jobs.graders.number import Number
from jobs.graders.python import Python
from jobs.graders.reasoning_gym import ReasoningGym
from jobs.graders.regex import Regex
from jobs.graders.repetition import Repetition
from jobs.graders.reward_model import RewardModel
from jobs.graders.ruler import Ruler
from jobs.graders.sandbox.pools import MAX_POOLS
from jobs.graders.score_model import ScoreModel
from jobs.graders.string_check import StringCheck
from jobs.graders.template import Template
from jobs.graders.text_similarity import TextSimilarity

# A grader that may be one of several, or stand alone.
SingleGrader = (
    StringCheck
    | TextSimilarity
    | ScoreModel
    | Endpoint
    | Python
    | Regex
    | Length
    | Contains
    | Blocklist
    | JsonSchema
    | Math
    | Number
    | Repetition
    | ReasoningGym
    | RewardModel
    | Ruler
)
# OpenAI takes a label_model only as one of several.
Component = SingleGrader | LabelModel

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Multi(GraderSpec):
    """Reward = calculate_output over the components' rewards, named by their keys.

    `graders` is a map from key to grader, or a list keyed by each grader's name, or one grader.
    """

    type: Literal["multi"]
    graders: Annotated[
        dict[str, Annotated[Component, Field(discriminator="type")]],
        Field(min_length=1, max_length=64),
    ]
    calculate_output: Formula

    _means: Means = PrivateAttr(default_factory=lambda: BARE)

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

    @field_validator("graders")
    @classmethod
    def _fits_the_pools(cls, graders: dict[str, Any]) -> dict[str, Any]:
        programs = {one.program for one in graders.values() if isinstance(one, Python)}
        if len(programs) > MAX_POOLS:
            raise ValueError(
                f"has {len(programs)} python graders, and {MAX_POOLS} is the most: each has a "
                "sandbox of its own; put several of them into one source"
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

    def model_post_init(self, context: Any) -> None:
        """Take the means: components that wait for others do so side by side."""
        if isinstance(context, Means):
            self._means = context

    @property
    def is_group_aware(self) -> bool:
        """Whether any component is."""
        return any(grader.is_group_aware for grader in self.graders.values())

    @property
    def waits(self) -> bool:
        """Whether any component does."""
        return any(grader.waits for grader in self.graders.values())

    @property
    def asks_judges(self) -> bool:
        """Whether any component does."""
        return any(grader.asks_judges for grader in self.graders.values())

    @property
    def concurrency(self) -> int:
        """As many as its quickest component takes: the others bound themselves."""
        return max(grader.concurrency for grader in self.graders.values())

    @property
    def warnings(self) -> list[str]:
        """Each component's, with its key."""
        return [
            f"graders.{key}: {warning}"
            for key, grader in self.graders.items()
            for warning in grader.warnings
        ]

    def graded(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """As every grader's, with each component's reward in `sub_rewards`.

        A component that fails leaves no reward, unless the formula does not use it.
        """
        return self.graded_group([sample], item)[0]

    def graded_group(self, samples: Sequence[Sample], item: Mapping[str, Any]) -> list[Grade]:
        """As `graded`, for siblings; those that wait take as long as the slowest, not their sum."""
        started = time.perf_counter()
        waiting = {
            key: self._start(grader, samples, item)
            for key, grader in self.graders.items()
            if grader.waits
        }
        done = {
            key: grader.grade_group(samples, item)
            for key, grader in self.graders.items()
            if key not in waiting
        }
        done |= {
            key: [grade for future in futures for grade in future.result()]
            for key, futures in waiting.items()
        }
        seconds = time.perf_counter() - started
        return [
            self._combined({key: done[key][index] for key in self.graders}, seconds)
            for index in range(len(samples))
        ]

    def check(self) -> None:
        """Each component's own check."""
        for key, grader in self.graders.items():
            try:
                grader.check()
            except GraderInvalid as error:
                raise GraderInvalid(error.message, param=f"graders.{key}.{error.param}") from None
            except Unavailable as error:
                error.message = f"graders.{key}: {error.message}"
                raise

    def _start(
        self, grader: GraderSpec, samples: Sequence[Sample], item: Mapping[str, Any]
    ) -> list[Future[list[Grade]]]:
        groups = [samples] if grader.is_group_aware else [[sample] for sample in samples]
        return [self._means.start(partial(grader.grade_group, one, item)) for one in groups]

    def _combined(self, parts: Mapping[str, Grade], seconds: float) -> Grade:
        errors: set[ErrorFlag] = set()
        details: list[str] = []
        by_flag: dict[ErrorFlag, list[str]] = {}
        for key in self.calculate_output.variables:
            if (part := parts[key]).errors:
                errors |= part.errors
                details.append(f"{key}: {part.error_detail}")
                for flag, detail in part.details.items():
                    shown = detail if flag in TYPED_FLAGS else f"{key}: {detail}"
                    by_flag.setdefault(flag, []).append(shown)
        reward = None
        if not errors:
            known = {key: part.reward for key, part in parts.items() if part.reward is not None}
            try:
                reward = self.calculate_output.evaluate(known)
            except GradeFailure as failure:
                errors.add(failure.flag)
                details.append(failure.detail)
                by_flag[failure.flag] = [failure.detail]
        return Grade(
            reward=reward,
            sub_rewards={key: part.reward for key, part in parts.items()},
            errors=frozenset(errors),
            error_detail="; ".join(details) or None,
            seconds=seconds,
            # A type stays one word, the first; `error_detail` names those of all.
            details={
                flag: said[0] if flag in TYPED_FLAGS else "; ".join(said)
                for flag, said in by_flag.items()
            },
            parts=parts,
            usage=summed(part.usage for part in parts.values()),
            incidents=_counted(parts.values()),
        )

    def templates(self) -> Iterator[Template]:
        """Every template of every component."""
        for grader in self.graders.values():
            yield from grader.templates()

    def row_problem(self, item: Mapping[str, Any]) -> str | None:
        """The first that a component has."""
        return self.row_problems([item])[0]

    def row_problems(self, items: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """Of each row the first that a component has."""
        found = [grader.row_problems(items) for grader in self.graders.values()]
        return [next(filter(None, problems), None) for problems in zip(*found, strict=True)]

    def item_paths(self) -> set[str]:
        """The row fields that any component reads."""
        return {path for grader in self.graders.values() for path in grader.item_paths()}


def _counted(parts: Iterable[Grade]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for kind, number in part.incidents.items():
            total[kind] = total.get(kind, 0) + number
    return total


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
