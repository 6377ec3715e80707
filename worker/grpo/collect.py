"""The first half of a step: prompts in, graded groups out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from worker.grpo.aggregate import groups_with_signal
from worker.grpo.config import GrpoConfig
from worker.grpo.grading import GradeFn, GradeGroupFn, Grading
from worker.grpo.hooks import Hooks, Stopwatch
from worker.grpo.order import stream_seed, take
from worker.grpo.overlong import punished
from worker.grpo.rollout import Sampler
from worker.grpo.types import Group, Prompt, Rollout


@dataclass(frozen=True, slots=True)
class Collected:
    """A step's groups, without advantages as yet, and what it took to get them."""

    groups: list[Group]
    """Those that are to be trained on."""
    drawn: list[Group]
    """All of them, those that a refill replaced included."""
    has_signal: list[bool]
    """Of each that was drawn, whether it can teach anything."""
    num_tokens: int
    """Tokens of all prompts and completions drawn."""

    @property
    def num_prompts(self) -> int:
        """Prompts drawn: how far the cursor moves."""
        return len(self.drawn)


class Collector:
    """Draws and grades the groups of a step."""

    def __init__(
        self,
        sampler: Sampler,
        config: GrpoConfig,
        prompts: Sequence[Prompt],
        grade: GradeFn,
        hooks: Hooks,
        *,
        grade_group: GradeGroupFn | None = None,
    ) -> None:
        self.sampler = sampler
        self.config = config
        self.prompts = prompts
        self.grade = grade
        self.hooks = hooks
        self.grade_group = grade_group

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
        return Collected(
            groups=[drawn[i] for i in sorted(by_signal[: config.batch_size])],
            drawn=drawn,
            has_signal=is_live,
            num_tokens=sum(
                len(group.prompt.ids) + len(rollout.completion_ids)
                for group in drawn
                for rollout in group.rollouts
            ),
        )

    def _draw(self, prompts: Sequence[Prompt], seed: int, stopwatch: Stopwatch) -> list[Group]:
        """Sample a group of each prompt, grading every rollout as soon as it ends."""
        hooks, config = self.hooks, self.config
        total = len(prompts) * config.group_size
        hooks.progress("sampling", 0, total)

        def on_finished(rollout: Rollout) -> None:
            grading.start(rollout)
            hooks.progress("sampling", grading.num_started, total)

        with Grading(
            self.grade, prompts, grade_group=self.grade_group, group_size=config.group_size
        ) as grading:
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
                grading.start_rest(groups)
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
