"""What a sandbox answers, and the ways in which it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.errors import Unavailable
from jobs.graders.sandbox.inside.records import Status


@dataclass(frozen=True)
class Verdict:
    """What became of one row."""

    status: Status
    scores: tuple[float, ...] = ()
    message: str = ""
    seconds: float = 0.0
    ran_text: bool = False
    """Whether the row's process ran a text as code: what it then says, that text may have said."""


@dataclass(frozen=True)
class Loaded:
    """What is known of a source that was loaded."""

    functions: frozenset[str] = frozenset()
    """Those of `grade` and `grade_group` that it defines."""
    text_runs: tuple[tuple[int, str], ...] = ()
    """The lines that may run a text as code, and what does so."""

    @classmethod
    def of(cls, report: dict[str, Any]) -> Loaded:
        """From a harness's report."""
        runs = tuple((int(line), printable(what)) for line, what in report["text_runs"])
        return cls(frozenset(report["functions"]), runs)


class SourceRefused(Exception):
    """A grader's source cannot be used; the message is for its author."""


class SandboxLost(Unavailable):
    """The sandbox died. `was_running` says whether it may have been over this row."""

    code = "sandbox_lost"

    def __init__(self, message: str = "The sandbox's process ended.", *, was_running: bool) -> None:
        super().__init__(message)
        self.was_running = was_running


class TooManyGraders(Unavailable):
    """All pools are in use, and none came free in time."""

    code = "too_many_graders"


def printable(text: str) -> str:
    """A user's text on its way to logs and answers: no control characters but line ends."""
    return "".join(one if one.isprintable() or one == "\n" else " " for one in text)
