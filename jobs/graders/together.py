"""Many samples graded at once, as a trainer does it, for somebody who tries a grader out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from jobs.graders.base import GraderSpec
from jobs.graders.grade import Grade, GradeFailure, Sample

MAX_THREADS = 16
LATE = GradeFailure(
    "unresponsive_reward_error", "the request's time was over before this sample was graded"
)


class Runner(Protocol):
    """Runs works side by side for as long as there is time."""

    def __call__(
        self, works: Sequence[Callable[[], list[Grade]]], *, num_threads: int
    ) -> list[Future[list[Grade]]]: ...


def graded_together(
    grader: GraderSpec,
    samples: Sequence[Sample],
    items: Sequence[Mapping[str, Any]],
    *,
    run: Runner,
) -> list[Grade]:
    """The grade of each sample against its item, in their order; a flag where time was over.

    Samples of equal items are siblings to a grader that ranks them.
    """
    groups: dict[object, list[int]] = {}
    for place, item in enumerate(items):
        key = json.dumps(item, sort_keys=True) if grader.is_group_aware else place
        groups.setdefault(key, []).append(place)

    def work(places: list[int]) -> Callable[[], list[Grade]]:
        return lambda: grader.grade_group([samples[place] for place in places], items[places[0]])

    works = [work(places) for places in groups.values()]
    num_threads = max(1, min(grader.concurrency, MAX_THREADS, len(groups)))
    grades = [Grade.failed(LATE, seconds=0.0)] * len(samples)
    for places, future in zip(groups.values(), run(works, num_threads=num_threads), strict=True):
        if future.done() and not future.cancelled():
            for place, grade in zip(places, future.result(), strict=True):
                grades[place] = grade
    return grades
