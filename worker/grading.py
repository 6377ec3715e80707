"""The job's grader as the engine calls it: off the sampling thread, failures counted by kind."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from jobs.datasets import Row
from jobs.errors import JobFailure
from jobs.graders import Grade, GraderSpec, Sample
from jobs.graders.alone import grades_alone
from jobs.graders.sandbox import pools
from jobs.status import Reason
from worker.grpo.types import Evaluation, Graded, Group, Prompt, Rollout
from worker.prompts import Completion, PromptRenderer

MAX_THREADS = 64
MAX_DETAILS_SHOWN = 3
BUDGET_STEPS = 10
# What a job may say of a failed grade; any other answer is a reward.
DROP, FAIL = "drop", "fail"


class Grading:
    """Grades rollouts as they finish; the `payload` of each prompt is its dataset row.

    As many at once as the grader can make use of; more wait in line, and a step waits for all of
    its own, so that no more than a step's rollouts are ever in line.
    """

    def __init__(
        self, grader: GraderSpec, renderer: PromptRenderer, *, on_error: str | float = DROP
    ) -> None:
        self.grader = grader
        self.renderer = renderer
        self.on_error = on_error
        self.is_group_aware = grader.is_group_aware
        self.grades_alone = grades_alone(grader)
        num_threads = min(max(grader.concurrency, 2), MAX_THREADS)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="grader")
        self._details: list[str] = []

    def submit(self, prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        """The engine's `grade`."""
        return self._pool.submit(self._grade, prompt, rollout)

    def submit_group(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> list[Future[Graded]]:
        """The engine's `grade_group`, for graders that look at all siblings at once."""
        futures: list[Future[Graded]] = [Future() for _ in rollouts]

        def work() -> None:
            try:
                graded = self._grade_group(prompt, rollouts)
            except BaseException as error:
                for future in futures:
                    future.set_exception(error)
                raise
            for future, one in zip(futures, graded, strict=True):
                future.set_result(one)

        for future in futures:
            future.set_running_or_notify_cancel()
        try:
            self._pool.submit(work)
        except RuntimeError as error:  # closed: nobody would ever answer
            for future in futures:
                future.set_exception(error)
        return futures

    def _grade(self, prompt: Prompt, rollout: Rollout) -> Graded:
        row: Row = prompt.payload
        completion = self._completion(prompt, rollout)
        grade = self.grader.grade(_sample(completion, rollout), row.graded)
        return self._graded(completion, grade)

    def _grade_group(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> list[Graded]:
        row: Row = prompt.payload
        completions = [self._completion(prompt, rollout) for rollout in rollouts]
        samples = [_sample(*pair) for pair in zip(completions, rollouts, strict=True)]
        grades = self.grader.grade_group(samples, row.graded)
        return [self._graded(*pair) for pair in zip(completions, grades, strict=True)]

    def _completion(self, prompt: Prompt, rollout: Rollout) -> Completion:
        row: Row = prompt.payload
        return self.renderer.completion(
            prompt.ids,
            rollout.completion_ids,
            is_cut=rollout.finish_reason == "length",
            tools=row.tools,
        )

    def _graded(self, completion: Completion, grade: Grade) -> Graded:
        reward = grade.reward
        if reward is None:
            self._remember(grade.error_detail or ", ".join(sorted(grade.errors)))
            if self.on_error == FAIL:
                raise self._failure("The grader failed on a completion", grade.errors)
            if self.on_error != DROP:
                reward = float(self.on_error)
        # A grader that stands alone is its own only component.
        parts = grade.parts or {self.grader.name: grade}
        return Graded(
            reward=reward,
            components={name: part.reward for name, part in parts.items()},
            errors=dict.fromkeys(grade.errors, 1),
            seconds=grade.seconds,
            text=completion.output_text,
            part_seconds={name: part.seconds for name, part in parts.items()},
            part_errors={name: tuple(sorted(part.errors)) for name, part in parts.items()},
            counts=_counts(grade),
            part_counts={name: _counts(part) for name, part in parts.items()},
            num_reasoning_tokens=completion.num_reasoning_tokens,
            tool_calls=completion.tool_calls,
        )

    def _remember(self, detail: str) -> None:
        if detail not in self._details and len(self._details) < MAX_DETAILS_SHOWN:
            self._details.append(detail)

    def _failure(self, what: str, kinds: Sequence[str] | frozenset[str]) -> JobFailure:
        named, details = ", ".join(sorted(kinds)), " | ".join(self._details)
        return JobFailure(
            Reason.GRADER_FAILED,
            f"{what} ({named}): {details}",
            param="method.reinforcement.grader",
        )

    def check_step(self, groups: Sequence[Group], evaluation: Evaluation | None) -> None:
        """Raise JobFailure when a step, or an evaluation, was graded and every grade failed."""
        drawn = [one for group in groups for one in group.graded]
        held_out = evaluation.graded if evaluation else []
        for some, what in ((drawn, "a step"), (held_out, "an evaluation")):
            if some and all(one.errors for one in some):
                kinds = frozenset(kind for one in some for kind in one.errors)
                raise self._failure(
                    f"The grader failed on all {len(some)} completions of {what}", kinds
                )

    def check_budget(
        self, groups: Sequence[Group], history: list[list[int]], *, max_ratio: float
    ) -> None:
        """Count a step's failed grades into `history`; raise JobFailure past the budget.

        `history` holds [failed, graded] of the last steps and is the caller's to keep.
        """
        graded = [one for group in groups for one in group.graded]
        if not graded:
            return
        history.append([sum(bool(one.errors) for one in graded), len(graded)])
        del history[:-BUDGET_STEPS]
        failed, total = (sum(column) for column in zip(*history, strict=True))
        if failed > max_ratio * total:
            kinds = frozenset(kind for one in graded for kind in one.errors)
            raise self._failure(
                f"The grader failed on {failed} of the last {total} completions, more than "
                f"max_grader_error_ratio = {max_ratio:g} allows",
                kinds,
            )

    def close(self) -> None:
        """Start no more grades; those under way end with the means they use."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        pools.close_all()


def _sample(completion: Completion, rollout: Rollout) -> Sample:
    """What graders read of a rollout."""
    return Sample(
        output_text=completion.output_text,
        finish_reason=rollout.finish_reason,
        num_tokens=len(rollout.completion_ids),
        reasoning_text=completion.reasoning_text,
        output_json=completion.output_json,
        output_tools=completion.tool_calls,
    )


def _counts(grade: Grade) -> dict[str, float]:
    """What a step adds up: each judge's requests and tokens, and incidents by kind."""
    counts: dict[str, float] = {
        f"graders/incidents/{kind}": number for kind, number in grade.incidents.items()
    }
    for judge, usage in grade.usage.items():
        counts |= {
            f"judges/{judge}/requests": usage.num_requests,
            f"judges/{judge}/prompt_tokens": usage.prompt_tokens,
            f"judges/{judge}/completion_tokens": usage.completion_tokens,
            f"judges/{judge}/cached_tokens": usage.cached_tokens,
        }
    return counts
