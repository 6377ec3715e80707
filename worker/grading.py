"""The job's grader as the engine calls it: off the sampling thread, failures counted by kind."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from jobs.datasets import Row
from jobs.errors import JobFailure
from jobs.graders import GraderSpec, Sample
from jobs.status import Reason
from worker.grpo.types import Graded, Group, Prompt, Rollout
from worker.prompts import PromptRenderer

NUM_THREADS = 2
MAX_DETAILS_SHOWN = 3


class Grading:
    """Grades rollouts as they finish; the `payload` of each prompt is its dataset row."""

    def __init__(self, grader: GraderSpec, renderer: PromptRenderer) -> None:
        self.grader = grader
        self.renderer = renderer
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grader")
        self._details: list[str] = []

    def submit(self, prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        """The engine's `grade`."""
        return self._pool.submit(self._grade, prompt, rollout)

    def _grade(self, prompt: Prompt, rollout: Rollout) -> Graded:
        row: Row = prompt.payload
        completion = self.renderer.completion(
            prompt.ids, rollout.completion_ids, is_cut=rollout.finish_reason == "length"
        )
        sample = Sample(
            output_text=completion.output_text,
            finish_reason=rollout.finish_reason,
            num_tokens=len(rollout.completion_ids),
            reasoning_text=completion.reasoning_text,
        )
        grade = self.grader.grade(sample, row.item)
        if grade.reward is None:
            self._remember(grade.error_detail or ", ".join(sorted(grade.errors)))
        return Graded(
            reward=grade.reward,
            components=dict(grade.sub_rewards),
            errors=dict.fromkeys(grade.errors, 1),
            seconds=grade.seconds,
            text=completion.output_text,
        )

    def _remember(self, detail: str) -> None:
        if detail not in self._details and len(self._details) < MAX_DETAILS_SHOWN:
            self._details.append(detail)

    def check_budget(self, groups: list[Group]) -> None:
        """Raise JobFailure when a step was graded and not one rollout got a reward."""
        graded = [one for group in groups for one in group.graded]
        if graded and all(one.reward is None for one in graded):
            kinds = sorted({kind for one in graded for kind in one.errors})
            raise JobFailure(
                Reason.GRADER_FAILED,
                f"The grader failed on all {len(graded)} completions of a step "
                f"({', '.join(kinds)}): {' | '.join(self._details)}",
                param="method.reinforcement.grader",
            )

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
