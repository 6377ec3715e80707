"""Grades on their way: started as each rollout ends, so that grading overlaps sampling."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

from worker.grpo.types import Graded, Prompt, Rollout

GradeFn = Callable[[Prompt, Rollout], Future[Graded]]
# All siblings of a prompt at once, for rewards that rank them; a future each, in their order.
GradeGroupFn = Callable[[Prompt, Sequence[Rollout]], list[Future[Graded]]]
MAX_REWARD = 1e30  # Its square still fits a float64: statistics of rewards cannot overflow.
POLL_SECONDS = 0.2  # How long a stop request may go unnoticed while a grader works.


class Grading:
    """The grades of one draw; leaving the `with` block cancels those that nobody waited for."""

    def __init__(
        self,
        grade: GradeFn,
        prompts: Sequence[Prompt],
        *,
        grade_group: GradeGroupFn | None = None,
        group_size: int = 1,
    ) -> None:
        """Every rollout to come answers one of `prompts`; with `grade_group`, as one of a group."""
        self._grade = grade
        self._grade_group = grade_group
        self._group_size = group_size
        self._prompts = {prompt.index: prompt for prompt in prompts}
        self._visits = Counter(prompt.index for prompt in prompts)
        self._siblings: dict[int, list[Rollout]] = {}
        self._num_started = 0
        # By identity: a small dataset may put one prompt into a step twice.
        self._futures: dict[int, Future[Graded]] = {}

    def start(self, rollout: Rollout) -> None:
        """Hand a finished rollout to its grader, or its group once the last sibling is there."""
        self._num_started += 1
        prompt = self._prompts[rollout.prompt_index]
        if self._grade_group is None:
            self._futures[id(rollout)] = self._grade(prompt, rollout)
            return
        siblings = self._siblings.setdefault(prompt.index, [])
        siblings.append(rollout)
        # Of a prompt that is in the step twice, only the sampler knows whose sibling is whose.
        if len(siblings) == self._group_size and self._visits[prompt.index] == 1:
            self._start_group(siblings)

    def start_rest(self, groups: Sequence[Sequence[Rollout]]) -> None:
        """Hand over the groups that `start` could not tell apart, now that the sampler is done."""
        for group in groups:
            if id(group[0]) not in self._futures:
                self._start_group(group)

    def _start_group(self, group: Sequence[Rollout]) -> None:
        assert self._grade_group is not None
        group = sorted(group, key=lambda rollout: rollout.sample_index)
        futures = self._grade_group(self._prompts[group[0].prompt_index], group)
        self._futures |= {id(one): future for one, future in zip(group, futures, strict=True)}

    @property
    def num_started(self) -> int:
        """Rollouts that have finished, and are or will be handed to their grader."""
        return self._num_started

    def finish(
        self, *, interrupt: Callable[[], None], progress: Callable[[int, int], None]
    ) -> None:
        """Wait for every grade; `interrupt` is called while waiting, `progress(done, total)`."""
        pending = {future for future in self._futures.values() if not future.done()}
        while pending:
            interrupt()
            progress(len(self._futures) - len(pending), len(self._futures))
            _, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        # A grade may be why to stop: one that was not asked for any more at a limit, say.
        interrupt()
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
