"""The first half of a step: prompts in, graded groups with their advantages out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from worker.grpo.aggregate import group_advantages, groups_with_signal
from worker.grpo.config import GrpoConfig
from worker.grpo.grading import GradeFn, Grading
from worker.grpo.hooks import Hooks, Stopwatch
from worker.grpo.order import stream_seed, take
from worker.grpo.overlong import punished
from worker.grpo.rollout import Sampler
from worker.grpo.types import Group, Prompt, Rollout


@dataclass(frozen=True, slots=True)
class Collected:
    """A step's groups, and what it took to get them."""

    groups: list[Group]
    num_prompts: int
    """Prompts drawn, those of refills included: how far the cursor moves."""
    num_tokens: int
    """Tokens of all prompts and completions drawn."""


class Collector:
    """Draws and grades the groups of a step."""

    def __init__(
        self,
        sampler: Sampler,
        config: GrpoConfig,
        prompts: Sequence[Prompt],
        grade: GradeFn,
        hooks: Hooks,
    ) -> None:
        self.sampler = sampler
        self.config = config
        self.prompts = prompts
        self.grade = grade
        self.hooks = hooks

    def collect(self, *, step: int, cursor: int, stopwatch: Stopwatch) -> Collected:
        """Return the groups of a step that starts at prompt visit `cursor`.

        With dynamic sampling, groups without signal are replaced by those of the next prompts
        (DAPO, section 3.2) at most `max_refills` times; what is then still missing is made up
        with groups without signal.
        """
        config = self.config
        drawn: list[Group] = []
        num_live = 0
        for refill in range(1 + (config.max_refills if config.dynamic_sampling else 0)):
            seed = stream_seed(config.seed, "rollouts", step, refill)
            start, count = cursor + len(drawn), config.batch_size - num_live
            visits = take(self.prompts, start=start, count=count, seed=config.seed)
            drawn += self._draw(visits, seed, stopwatch)
            is_live = groups_with_signal(drawn, config)
            num_live = sum(is_live)
            if num_live == config.batch_size:
                break
        by_signal = sorted(range(len(drawn)), key=lambda i: not is_live[i])
        chosen = [drawn[i] for i in sorted(by_signal[: config.batch_size])]
        advantages_PG = group_advantages(chosen, config)
        return Collected(
            groups=[
                replace(group, advantages=row)
                for group, row in zip(chosen, advantages_PG, strict=True)
            ],
            num_prompts=len(drawn),
            num_tokens=sum(
                len(group.prompt.ids) + len(rollout.completion_ids)
                for group in drawn
                for rollout in group.rollouts
            ),
        )

    def _draw(self, prompts: Sequence[Prompt], seed: int, stopwatch: Stopwatch) -> list[Group]:
        """Sample and grade a group of each prompt; the advantages are still to come."""
        hooks, config = self.hooks, self.config
        total = len(prompts) * config.group_size
        hooks.progress("sampling", 0, total)

        def on_finished(rollout: Rollout) -> None:
            grading.start(rollout)
            hooks.progress("sampling", grading.num_started, total)

        with Grading(self.grade, prompts) as grading:
            with stopwatch.timing("sampling"):
                groups = self.sampler.sample(
                    prompts,
                    num_samples=config.group_size,
                    max_tokens=config.max_completion_tokens,
                    temperature=config.temperature,
                    seed=seed,
                    on_finished=on_finished,
                    interrupt=hooks.interrupt,
                )
            with stopwatch.timing("grading"):
                grading.finish(
                    interrupt=hooks.interrupt, progress=partial(hooks.progress, "grading")
                )
            return [
                Group(
                    prompt,
                    rollouts,
                    [punished(grading.result(one), one, config) for one in rollouts],
                    [],
                )
                for prompt, rollouts in zip(prompts, groups, strict=True)
            ]
