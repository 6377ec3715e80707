"""Whether a reward means something without siblings, and so the same at every evaluation."""

from __future__ import annotations

from jobs.graders.base import GraderSpec
from jobs.graders.multi import Multi
from jobs.graders.python import Python


def grades_alone(grader: GraderSpec) -> bool:
    """False of a grader that only ranks: an answer by itself has no rank."""
    if isinstance(grader, Multi):
        return all(grades_alone(part) for part in grader.graders.values())
    if not grader.is_group_aware:
        return True
    # A source may have both: then `grade` is for answers that stand alone.
    return isinstance(grader, Python) and "grade" in grader.functions
