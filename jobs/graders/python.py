"""python: a reward that its author wrote as a function, run in the sandbox."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from jobs.errors import GraderInvalid, NoIsolation
from jobs.graders.base import GraderSpec
from jobs.graders.grade import ErrorFlag, Grade, Sample
from jobs.graders.means import Means
from jobs.graders.sandbox import pools
from jobs.graders.sandbox.answers import (
    Loaded,
    SandboxLost,
    SourceRefused,
    TooManyGraders,
    Verdict,
    printable,
)
from jobs.graders.sandbox.inside.records import Kind, Status
from jobs.graders.sandbox.isolation import isolation
from jobs.graders.sandbox.pool import Program
from jobs.graders.sandbox.process import UNISOLATED

MAX_SOURCE_BYTES = 256_000
MAX_SECONDS = 120.0
MAX_MEMORY_MB = 2048
CALLS_PER_PROCESS = 32

# Counted in `incidents` for each sample of whose process the sandbox saw it.
RAN_TEXT = "ran_text_as_code"
RAN_TEXT_WARNING = (
    "The grader compiled or ran a text as Python where the row's answer and the verdict are. If "
    "that text is, or holds, a completion, it can read the answer and give itself any reward: run "
    "completions with run_code(text), whose process has neither."
)
_DEFINED = re.compile(
    r"^[ \t]*(?:def[ \t]+(grade|grade_group)[ \t]*\(|(grade|grade_group)[ \t]*[=:])", re.MULTILINE
)
# OpenAI names no values for `python_grader_server_error_type`; these are ours.
_SERVER_ERRORS = {
    Status.TIMEOUT: "timeout",
    Status.CRASHED: "crashed",
    Status.PROTOCOL: "forged_verdict",
    Status.SANDBOX_LOST: "sandbox_lost",
    Status.SKIPPED: "skipped",
}


class Python(GraderSpec):
    """Reward = what `grade(sample, item)` returns, or `grade_group(samples, item)` for a group."""

    type: Literal["python"]
    source: str
    image_tag: str | None = Field(default=None, max_length=64)
    cpu_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 5.0
    wall_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 15.0
    memory_mb: Annotated[int, Field(ge=64, le=MAX_MEMORY_MB)] = MAX_MEMORY_MB
    calls_per_process: Annotated[int, Field(ge=1, le=1024)] | None = None

    _tenant: str | None = PrivateAttr()
    _program: Program = PrivateAttr()
    _loaded: Loaded | None = PrivateAttr(default=None)

    @field_validator("calls_per_process")
    @classmethod
    def _completions_run_once(cls, calls: int | None, info: ValidationInfo) -> int | None:
        if calls not in (None, 1) and "run_code" in info.data.get("source", ""):
            raise ValueError("must be 1 where the source uses run_code")
        return calls

    @field_validator("source")
    @classmethod
    def _is_short(cls, source: str) -> str:
        num_bytes = len(source.encode("utf-8", "surrogatepass"))
        if num_bytes > MAX_SOURCE_BYTES:
            raise ValueError(f"has {num_bytes} bytes, and {MAX_SOURCE_BYTES} is the most")
        return source

    def model_post_init(self, _: Any) -> None:
        """Remember whose grader it is: tenants share no sandbox."""
        self._tenant = pools.current_tenant()
        alone = "run_code" in self.source
        self._program = Program(
            source=self.source,
            limits=(self.cpu_seconds, self.wall_seconds, self.memory_mb),
            calls_per_process=self.calls_per_process or (1 if alone else CALLS_PER_PROCESS),
        )

    @classmethod
    def why_unusable(cls, means: Means) -> str | None:
        """Where no isolation can be had, and nobody opted out of it."""
        try:
            isolation()
        except NoIsolation as error:
            return error.message
        return None

    @classmethod
    def limitations(cls, means: Means) -> list[str]:
        """What the level in force forbids or fails to forbid."""
        found = isolation()
        if found.level == UNISOLATED.name:
            return [f"Users' Python is not isolated from this machine: {found.reason}."]
        if found.is_sealed:
            return ["Sandboxes can open no file: a package that imports itself in parts may fail."]
        return []

    def check(self) -> None:
        """Compile and load it in the sandbox. Raises GraderInvalid, or Unavailable as it is."""
        try:
            with pools.borrowed(self._tenant, self._program) as pool:
                self._loaded = pool.loaded
        except SourceRefused as error:
            raise GraderInvalid(str(error), param="source") from None

    @property
    def program(self) -> Program:
        """What a sandbox runs: graders of one program and tenant share one."""
        return self._program

    @property
    def functions(self) -> frozenset[str]:
        """Those of `grade` and `grade_group` that the source defines.

        As `check` found them; before that, by the look of the source.
        """
        if self._loaded is not None:
            return self._loaded.functions
        return frozenset(one[1] or one[2] for one in _DEFINED.finditer(self.source))

    @property
    def is_group_aware(self) -> bool:
        """Whether the source defines `grade_group`."""
        return "grade_group" in self.functions

    @property
    def waits(self) -> bool:
        """The sandbox does the work."""
        return True

    @property
    def warnings(self) -> list[str]:
        """Of lines that may run a completion beside its answer, once `check` has looked."""
        if self._loaded is None or not self._loaded.text_runs:
            return []
        lines = self.source.split("\n")
        places = ", ".join(
            f"line {line} ({what}): `{printable(lines[line - 1].strip()[:80])}`"
            for line, what in self._loaded.text_runs
            if 0 < line <= len(lines)
        )
        ignored = (
            f" calls_per_process is 1 then, not {self.calls_per_process}."
            if self.calls_per_process not in (None, 1)
            else ""
        )
        return [
            "The python grader may run a text as Python where the row's answer and the verdict "
            f"are: {places}. If that text is, or holds, a completion, it can read the answer and "
            "give itself any reward: run completions with run_code(text), whose process has "
            f"neither.{ignored}"
        ]

    def graded(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """By `grade`, or as a group of one where the source has only `grade_group`."""
        return self._graded([sample], item, prefer="grade")[0]

    def graded_group(self, samples: Sequence[Sample], item: Mapping[str, Any]) -> list[Grade]:
        """By `grade_group` where there is one; what fails, fails for the whole group."""
        return self._graded(samples, item, prefer="grade_group")

    def _graded(
        self, samples: Sequence[Sample], item: Mapping[str, Any], *, prefer: str
    ) -> list[Grade]:
        started = time.perf_counter()
        shown = [as_openai_shows(sample) for sample in samples]
        try:
            with pools.borrowed(self._tenant, self._program) as pool:
                functions = pool.loaded.functions
                if (prefer if prefer in functions else min(functions)) == "grade":
                    verdicts = [pool.grade(Kind.GRADE, one, item, wanted=1) for one in shown]
                else:
                    together = pool.grade(Kind.GRADE_GROUP, shown, item, wanted=len(shown))
                    verdicts = _one_each(together, len(shown))
        except (SourceRefused, NoIsolation, SandboxLost, TooManyGraders) as error:
            lost = Verdict(Status.SANDBOX_LOST, message=str(error))
            verdicts = [lost] * len(shown)
        seconds = time.perf_counter() - started
        return [_grade(verdict, seconds) for verdict in verdicts]


def as_openai_shows(sample: Sample) -> dict[str, Any]:
    """The `sample` argument: every variable that templates know, as JSON."""
    return {
        "output_text": sample.output_text,
        "output_json": sample.output_json,
        "output_tools": list(sample.output_tools),
        "choices": sample.variable("choices"),
        "reasoning_text": sample.reasoning_text,
    }


def _one_each(together: Verdict, count: int) -> list[Verdict]:
    if together.status != Status.OK:
        return [together] * count
    return [
        replace(together, scores=(score,), seconds=together.seconds / count)
        for score in together.scores
    ]


def _grade(verdict: Verdict, seconds: float) -> Grade:
    incidents = {RAN_TEXT: 1} if verdict.ran_text else {}
    if verdict.status == Status.OK:
        return Grade(reward=verdict.scores[0], seconds=seconds, incidents=incidents)
    kind = _SERVER_ERRORS.get(verdict.status)
    flag: ErrorFlag = "python_grader_server_error" if kind else "python_grader_runtime_error"
    return Grade(
        reward=None,
        errors=frozenset({flag}),
        error_detail=verdict.message,
        details={flag: kind or verdict.message},
        seconds=seconds,
        incidents=incidents,
    )
