"""Graders whose work may take long: it is done in a worker process, with a deadline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.graders.grade import GradeFailure
from jobs.graders.offload.pool import OffloadFailed, OffloadTimeout
from jobs.graders.offload.records import MAX_VALUES, Outcome
from jobs.graders.outside import BoundGrader

CHECK_SECONDS = 10.0


class OffloadedGrader(BoundGrader):
    """A grader that hands its work to a module of `jobs.graders.offload`."""

    def run_offloaded(self, module: str, *, seconds: float, **arguments: Any) -> Outcome:
        """What the module's `run` returns; raises GradeFailure where it raises or is too slow."""
        try:
            return self._means.offload.call(module, seconds=seconds, **arguments)
        except OffloadTimeout as error:
            raise GradeFailure("unresponsive_reward_error", str(error)) from None
        except OffloadFailed as error:
            raise GradeFailure("other_error", str(error)) from None

    def faults(self, module: str, values: Sequence[Any], **arguments: Any) -> list[str | None]:
        """Of each value what is wrong with it by the module's `run(values=...)`, or None.

        Many go in one call, since each call forks. One that ends its call is told by halves.
        """
        if len(values) > MAX_VALUES:
            rest = self.faults(module, values[MAX_VALUES:], **arguments)
            return [*self.faults(module, values[:MAX_VALUES], **arguments), *rest]
        if not values:
            return []
        try:
            found = self._means.offload.call(
                module, seconds=CHECK_SECONDS, values=list(values), **arguments
            )
        except (OffloadTimeout, OffloadFailed) as error:
            if len(values) == 1:
                return [str(error)]
            middle = len(values) // 2
            first = self.faults(module, values[:middle], **arguments)
            return [*first, *self.faults(module, values[middle:], **arguments)]
        bad = int(found.score)
        return [found.note if bad >> place & 1 else None for place in range(len(values))]

    @property
    def concurrency(self) -> int:
        """How many samples can be graded at a time."""
        return self._means.offload.num_processes
