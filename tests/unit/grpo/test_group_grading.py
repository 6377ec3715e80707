"""Rewards that rank siblings: a group is graded at once, when its last sibling has finished."""

from collections.abc import Sequence
from concurrent.futures import Future

from tiny import EOS, prompts, tiny_config, tiny_policy

from worker.grpo.hf_sampler import HfSampler
from worker.grpo.hooks import Hooks
from worker.grpo.trainer import Trainer
from worker.grpo.types import Graded, Prompt, Rollout


def done(reward: float) -> Future[Graded]:
    future: Future[Graded] = Future()
    future.set_result(Graded(reward=reward, components={}, errors={}, seconds=0.0, text=""))
    return future


class Ranks:
    """Pays each rollout its place in the group, and remembers who was graded with whom."""

    def __init__(self) -> None:
        self.groups: list[list[Rollout]] = []
        self.alone = 0

    def one(self, prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        self.alone += 1
        return done(0.0)

    def group(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> list[Future[Graded]]:
        assert {one.prompt_index for one in rollouts} == {prompt.index}
        self.groups.append(list(rollouts))
        return [done(float(place)) for place in range(len(rollouts))]


def trained(
    ranks: Ranks,
    num_prompts: int,
    hooks: Hooks | None = None,
    *,
    grades_alone: bool = False,
    **config: object,
) -> Trainer:
    policy = tiny_policy()
    return Trainer(
        policy,
        HfSampler(policy, eos_ids=[EOS]),
        tiny_config(**{"total_steps": 1, "batch_size": 4, "group_size": 3} | config),
        prompts(num_prompts),
        prompts(2, seed=1),
        grade=ranks.one,
        grade_group=ranks.group,
        grades_alone=grades_alone,
        hooks=hooks,
    )


def assert_groups_are_the_samplers(ranks: Ranks, trainer: Trainer) -> None:
    result = list(trainer.steps())[-1]
    graded = {tuple(map(id, group)) for group in ranks.groups}
    assert graded == {tuple(map(id, group.rollouts)) for group in result.groups}
    for group in result.groups:
        assert [one.sample_index for one in group.rollouts] == [0, 1, 2]
        assert [one.reward for one in group.graded] == [0.0, 1.0, 2.0]


def test_siblings_are_graded_together_and_greedy_answers_alone() -> None:
    ranks = Ranks()
    assert_groups_are_the_samplers(ranks, trained(ranks, 8))
    assert ranks.alone == 2 * 2  # two held-out prompts, before and after


def test_sampled_answers_of_an_evaluation_are_siblings_and_nothing_is_compared() -> None:
    ranks = Ranks()
    results = list(trained(ranks, 8, eval_pass_k=4, eval_pass_threshold=3.0).steps())
    assert ranks.alone == 2 * 2
    for result in results:
        assert result.evaluation.sampled_rewards == [[0.0, 1.0, 2.0, 3.0]] * 2
        assert result.metrics["eval_best@4"] == 3.0
        assert result.evaluation.lift is result.evaluation.pass_lift is None
    assert [len(group) for group in ranks.groups] == [4] * 2 + [3] * 4 + [4] * 2


def test_flat_rewards_of_ranked_answers_stop_no_job_early() -> None:
    patient = {"eval_interval": 1, "early_stopping_patience": 1}
    trainer = trained(Ranks(), 8, total_steps=3, **patient)
    assert [result.step for result in trainer.steps()] == [0, 1, 2, 3]
    assert trainer.counts.baseline is None


def test_a_grader_that_also_grades_alone_does_so_in_evaluations() -> None:
    ranks = Ranks()
    results = list(trained(ranks, 8, eval_pass_k=4, grades_alone=True).steps())
    assert ranks.alone == 2 * 2 * (1 + 4)
    assert results[-1].evaluation.lift is not None


def test_a_prompt_that_is_twice_in_a_step_keeps_its_groups_apart() -> None:
    ranks = Ranks()
    trainer = trained(ranks, 2)
    assert_groups_are_the_samplers(ranks, trainer)
    assert len(ranks.groups) == 4


def test_a_group_is_graded_while_others_are_sampled() -> None:
    ranks = Ranks()
    seen: list[tuple[str, int]] = []
    hooks = Hooks(progress=lambda phase, done, total: seen.append((phase, len(ranks.groups))))
    list(trained(ranks, 8, hooks).steps())
    assert max(count for phase, count in seen if phase == "sampling") > 0
