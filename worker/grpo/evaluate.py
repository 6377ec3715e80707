"""Greedy answers to the held-out prompts: the number by which a run is judged."""

import time
from collections.abc import Callable, Sequence

from worker.grpo.grading import GradeFn, Grading
from worker.grpo.metrics import mean
from worker.grpo.rollout import Sampler
from worker.grpo.types import Evaluation, Prompt, Rollout


def evaluate(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int,
    grade: GradeFn,
    interrupt: Callable[[], None],
    progress: Callable[[int, int], None],
) -> Evaluation:
    """Sample each prompt once at temperature 0, grade the answers, and sum them up.

    The answers depend on the policy alone: two evaluations of the same weights are equal.
    """
    started = time.perf_counter()
    progress(0, len(prompts))

    def on_finished(rollout: Rollout) -> None:
        grading.start(rollout)
        progress(grading.num_started, len(prompts))

    with Grading(grade, prompts) as grading:
        groups = sampler.sample(
            prompts,
            num_samples=1,
            max_tokens=max_tokens,
            temperature=0.0,
            seed=0,
            on_finished=on_finished,
            interrupt=interrupt,
        )
        grading.finish(interrupt=interrupt, progress=lambda done, total: None)
        rollouts = [group[0] for group in groups]
        graded = [grading.result(rollout) for rollout in rollouts]
    rewards = [one.reward for one in graded]
    return Evaluation(
        reward=mean([reward for reward in rewards if reward is not None]),
        rewards=rewards,
        rollouts=rollouts,
        graded=graded,
        mean_length=sum(len(r.completion_ids) for r in rollouts) / len(rollouts),
        clipped_ratio=sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        seconds=time.perf_counter() - started,
    )
