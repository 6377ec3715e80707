"""Answers to the held-out prompts: the numbers by which a run is judged."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.grpo.config import GrpoConfig
from worker.grpo.grading import GradeFn, GradeGroupFn, Grading
from worker.grpo.lift import paired_lift
from worker.grpo.metrics import mean
from worker.grpo.order import stream_seed
from worker.grpo.pass_at_k import pass_at_k
from worker.grpo.rollout import Sampler
from worker.grpo.types import Baseline, Evaluation, Graded, Prompt, Rollout

# Prompts that are answered `eval_pass_k` times; all are answered greedily.
MAX_PASS_PROMPTS = 64


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Puts the held-out prompts to the policy as it is; two of the same weights are equal.

    With `grade_group` the sampled answers to a prompt are ranked as siblings. Each greedy answer is
    graded alone, and what that gives is not comparable.
    """

    sampler: Sampler
    config: GrpoConfig
    prompts: Sequence[Prompt]
    grade: GradeFn
    interrupt: Callable[[], None]
    progress: Callable[[int, int], None]
    grade_group: GradeGroupFn | None = None

    def evaluate(self, baseline: Baseline | None) -> Evaluation:
        """Answer greedily, then by sampling, and compare with what the untrained policy got."""
        started = time.perf_counter()
        config, asked = self.config, self.prompts[:MAX_PASS_PROMPTS]
        num_sampled = config.eval_pass_k if config.eval_pass_k > 1 else 0
        total = len(self.prompts) + num_sampled * len(asked)
        greedy = self._answers(
            self.prompts, None, num_samples=1, temperature=0.0, done=0, total=total
        )
        rollouts, graded = zip(*(answers[0] for answers in greedy), strict=True)
        sampled = self._answers(
            asked[: len(asked) if num_sampled else 0],
            self.grade_group,
            num_samples=num_sampled,
            temperature=config.temperature,
            done=len(self.prompts),
            total=total,
        )
        rewards = [one.reward for one in graded]
        sampled_rewards = [[one.reward for _, one in answers] for answers in sampled]
        passes = [
            pass_at_k(row, k=num_sampled, threshold=config.eval_pass_threshold)
            for row in sampled_rewards
        ]
        return Evaluation(
            reward=mean([reward for reward in rewards if reward is not None]),
            rewards=rewards,
            sampled_rewards=sampled_rewards,
            passes=passes,
            lift=paired_lift(baseline.rewards, rewards) if baseline else None,
            pass_lift=paired_lift(baseline.passes, passes) if baseline else None,
            rollouts=list(rollouts),
            graded=list(graded),
            sampled=[[one for _, one in answers] for answers in sampled],
            is_comparable=self.grade_group is None,
            mean_length=sum(len(r.completion_ids) for r in rollouts) / len(rollouts),
            clipped_ratio=sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
            seconds=time.perf_counter() - started,
        )

    def _answers(
        self,
        prompts: Sequence[Prompt],
        grade_group: GradeGroupFn | None,
        *,
        num_samples: int,
        temperature: float,
        done: int,
        total: int,
    ) -> list[list[tuple[Rollout, Graded]]]:
        """Each prompt's answers with their grades; `done` of `total` had been given before."""
        if not prompts:
            return []
        self.progress(done, total)

        def tell() -> None:
            self.progress(done + grading.num_started, total)

        def on_finished(rollout: Rollout) -> None:
            grading.start(rollout)
            tell()

        with Grading(
            self.grade, prompts, grade_group=grade_group, group_size=num_samples
        ) as grading:
            groups = self.sampler.sample(
                prompts,
                num_samples=num_samples,
                max_tokens=self.config.max_completion_tokens,
                temperature=temperature,
                # The same draws at every evaluation: what differs between two is the policy.
                seed=stream_seed(self.config.seed, "evaluation"),
                on_finished=on_finished,
                interrupt=self.interrupt,
            )
            grading.start_rest(groups)
            # All answers are there; who watches still has to hear that this is alive.
            grading.finish(interrupt=self.interrupt, progress=lambda *_: tell())
            return [[(one, grading.result(one)) for one in group] for group in groups]
