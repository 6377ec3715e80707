"""The engine learns: a reward that only counts tokens goes up."""

from statistics import fmean

from tests.unit.grpo.tiny import tiny_trainer


def test_reward_goes_up() -> None:
    trainer = tiny_trainer(
        total_steps=30, max_completion_tokens=8, learning_rate=2e-2, num_held_out=8
    )
    results = list(trainer.steps())

    rewards = [result.metrics["reward"] for result in results[1:]]
    assert fmean(rewards[:3]) < 0.3
    assert fmean(rewards[-3:]) > 0.9
    first, last = results[0].evaluation, results[-1].evaluation
    assert first is not None
    assert last is not None
    assert last.reward > first.reward + 0.5
