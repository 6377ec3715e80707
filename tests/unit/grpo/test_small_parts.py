"""Order, configuration and errors: the parts that are a page each."""

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from tests.unit.grpo.tiny import prompts, tiny_config
from worker.grpo import errors
from worker.grpo.errors import GrpoError, InvalidConfig
from worker.grpo.order import stream_seed, take


def test_an_epoch_visits_every_prompt_once_in_an_order_of_its_own() -> None:
    rows = prompts(10)
    epochs = [[p.index for p in take(rows, start=10 * e, count=10, seed=1)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_walk_depends_on_the_cursor_alone() -> None:
    rows = prompts(7)
    whole = take(rows, start=0, count=20, seed=4)
    parts = [
        prompt for start in range(0, 20, 4) for prompt in take(rows, start=start, count=4, seed=4)
    ]
    assert parts == whole
    assert take(rows, start=0, count=20, seed=5) != whole


def test_a_batch_may_be_larger_than_the_data() -> None:
    assert sorted(p.index for p in take(prompts(3), start=0, count=6, seed=0)) == [0, 0, 1, 1, 2, 2]


def test_streams_are_apart_and_always_the_same() -> None:
    names = [("rollouts", 1, 0), ("rollouts", 1, 1), ("rollouts", 11, 0), ("order", 1)]
    seeds = [stream_seed(seed, *name) for seed in (0, 1) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(0, "rollouts", 1, 0) == 236231386759806675


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"group_size": 1}, "group_size must be at least 2"),
        ({"total_steps": 0}, "total_steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"temperature": 0.05}, "temperature must be at least 0.1"),
        ({"cispo_max_ratio": 0.2}, "cispo_max_ratio must be at least 1"),
        ({"delta": 0.5}, "delta must be above 1"),
        ({"kl_coef": -0.1}, "kl_coef must not be negative"),
        ({"loss_type": "ppo"}, "loss_type must be one of grpo, bnpo"),
        ({"advantage_scale": "std"}, "advantage_scale must be one of group"),
    ],
)
def test_an_impossible_configuration_says_why(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidConfig, match=sentence):
        tiny_config(**changes)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        tiny_config().group_size = 3  # type: ignore[misc]


def test_every_error_has_a_sentence_and_survives_pickling() -> None:
    tree = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, GrpoError)]
    assert len(tree) == 9
    for error in tree:
        assert str(error()).endswith(".")
        copy = pickle.loads(pickle.dumps(error("This happened.")))
        assert (type(copy), str(copy)) == (error, "This happened.")
