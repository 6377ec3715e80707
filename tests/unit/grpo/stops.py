"""Interrupts at chosen questions, and grades that keep a step waiting for them."""

from collections.abc import Callable
from concurrent.futures import Future

from tests.unit.grpo.tiny import digit_share, grader
from worker.grpo.errors import Interrupted
from worker.grpo.types import Graded, Phase, Prompt, Rollout


class StopAt:
    """Interrupts at the n-th question asked in a phase of a step."""

    def __init__(self, phase: Phase, question: int) -> None:
        self.phase, self.question = phase, question
        self.current: Phase = "sampling"
        self.is_armed = False
        self.asked = 0

    def progress(self, phase: Phase, done: int, total: int) -> None:
        self.current = phase

    def interrupt(self) -> None:
        if self.is_armed and self.current == self.phase:
            self.asked += 1
            if self.asked == self.question:
                raise Interrupted


def slow(stop: StopAt) -> Callable[[Prompt, Rollout], Future[Graded]]:
    """A grade function that leaves its last grades to be waited for."""
    grade_now = grader(digit_share)

    def grade(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        future: Future[Graded] = Future()
        if stop.phase != "grading" or not stop.is_armed:
            future.set_result(grade_now(prompt, rollout).result())
        return future

    return grade
