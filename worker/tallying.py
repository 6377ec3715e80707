"""What a finished step adds to the system's tallies: its time, and its calls of graders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from jobs.graders import GraderSpec
from jobs.graders.multi import Multi
from jobs.monitoring import REWARD_CALL_SECONDS, REWARD_ERRORS, STEP_SECONDS
from jobs.store.tallies import Tallies
from worker.grpo.types import Graded, StepResult


def count_step(tallies: Tallies, result: StepResult, grader: GraderSpec) -> None:
    """Count everything that was drawn and graded for a step, its evaluation included.

    A multi's components count, each by its own type; of the multi itself only what went wrong in
    none of them.
    """
    seconds = result.metrics.get("step_time")
    if result.step and seconds is not None:  # step 0 is an evaluation alone
        tallies.observe(STEP_SECONDS, seconds)
    kinds = _kinds(grader)
    errors: Counter[str] = Counter()
    for one in _graded(result):
        for name, took in one.part_seconds.items():
            tallies.observe(REWARD_CALL_SECONDS, took, kind=kinds[name])
        in_parts = [code for codes in one.part_errors.values() for code in codes]
        errors.update(in_parts)
        errors.update(code for code in one.errors if code not in in_parts)
    for code, number in errors.items():
        tallies.count(REWARD_ERRORS, number, code=code)


def _kinds(grader: GraderSpec) -> dict[str, str]:
    """The type of each component, by its name; a grader alone is its own only one."""
    parts = grader.graders if isinstance(grader, Multi) else {grader.name: grader}
    return {name: part.type for name, part in parts.items()}


def _graded(result: StepResult) -> Iterator[Graded]:
    for group in result.drawn:
        yield from group.graded
    if result.evaluation is not None:
        yield from result.evaluation.graded
        for answers in result.evaluation.sampled:
            yield from answers
