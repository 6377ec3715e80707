"""Grades on their way: started as each rollout ends, so that grading overlaps sampling."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

from worker.grpo.types import Graded, Prompt, Rollout

GradeFn = Callable[[Prompt, Rollout], Future[Graded]]
MAX_REWARD = 1e30  # Its square still fits a float64: statistics of rewards cannot overflow.
POLL_SECONDS = 0.2  # How long a stop request may go unnoticed while a grader works.


class Grading:
    """The grades of one draw; leaving the `with` block cancels those that nobody waited for."""

    def __init__(self, grade: GradeFn, prompts: Sequence[Prompt]) -> None:
        """Every rollout to come answers one of `prompts`."""
        self._grade = grade
        self._prompts = {prompt.index: prompt for prompt in prompts}
        # By identity: a small dataset may put one prompt into a step twice.
        self._futures: dict[int, Future[Graded]] = {}

    def start(self, rollout: Rollout) -> None:
        """Hand a finished rollout to its grader."""
        self._futures[id(rollout)] = self._grade(self._prompts[rollout.prompt_index], rollout)

    @property
    def num_started(self) -> int:
        """Rollouts handed to their grader so far."""
        return len(self._futures)

    def finish(
        self, *, interrupt: Callable[[], None], progress: Callable[[int, int], None]
    ) -> None:
        """Wait for every grade; `interrupt` is called while waiting, `progress(done, total)`."""
        pending = {future for future in self._futures.values() if not future.done()}
        while pending:
            interrupt()
            progress(len(self._futures) - len(pending), len(self._futures))
            _, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        progress(len(self._futures), len(self._futures))

    def result(self, rollout: Rollout) -> Graded:
        """Return a rollout's grade, after `finish`; raises what its grader raised.

        A number that is NaN, infinite or beyond all measure is a failure of the grader: it is
        taken for None and counted as `not_finite`.
        """
        graded = self._futures[id(rollout)].result()
        components = {name: _usable(value) for name, value in graded.components.items()}
        if graded.reward == _usable(graded.reward) and graded.components == components:
            return graded
        errors = {**graded.errors, "not_finite": graded.errors.get("not_finite", 0) + 1}
        return replace(graded, reward=_usable(graded.reward), components=components, errors=errors)

    def __enter__(self) -> "Grading":
        return self

    def __exit__(self, *_: object) -> None:
        for future in self._futures.values():
            future.cancel()


def _usable(value: float | None) -> float | None:
    return value if value is not None and abs(value) <= MAX_REWARD else None
