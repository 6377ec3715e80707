"""What grades cost is counted for every grade that was asked for."""

from concurrent.futures import Future

from tests.unit.grpo.tiny import EOS, prompts, tiny_config, tiny_policy
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.trainer import Trainer
from worker.grpo.types import Graded, Prompt, Rollout


def test_what_grades_cost_is_added_up_over_all_that_were_asked_for() -> None:
    """Also of groups that a refill replaced, and of an evaluation's sampled answers."""
    asked: list[Rollout] = []

    def grade(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        asked.append(rollout)
        future: Future[Graded] = Future()
        reward = 0.0 if prompt.index % 2 else rollout.sample_index / 4
        future.set_result(Graded(reward, {}, {}, 0.0, "", counts={"judges/j/requests": 1.0}))
        return future

    policy = tiny_policy()
    trainer = Trainer(
        policy,
        HfSampler(policy, eos_ids=[EOS]),
        tiny_config(
            total_steps=2,
            batch_size=3,
            group_size=4,
            max_completion_tokens=5,
            dynamic_sampling=True,
            max_refills=10,
            eval_pass_k=3,
        ),
        prompts(8),
        prompts(2, seed=1),
        grade=grade,
    )
    results = list(trainer.steps())
    assert any(len(result.drawn) > len(result.groups) for result in results)
    counted = sum(
        result.metrics.get(name) or 0.0
        for result in results
        for name in ("judges/j/requests", "eval_judges/j/requests")
    )
    assert counted == len(asked)
    groups = [one for result in results for one in result.drawn]
    assert sum(len(group.graded) for group in groups) == len(asked) - 2 * 2 * (1 + 3)
