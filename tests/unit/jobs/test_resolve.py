"""What `auto` becomes."""

from typing import Any

import pytest

from jobs.errors import JobFailure
from jobs.hyperparameters import Hyperparameters
from jobs.resolve import resolve


def resolved(num_rows: int = 400, num_held_out: int = 300, **asked: Any) -> dict[str, Any]:
    return resolve(
        Hyperparameters.model_validate(asked),
        num_rows=num_rows,
        num_held_out=num_held_out,
        model_learning_rate=1e-3,
    )


def test_defaults_are_at_least_100_steps_of_8_prompts() -> None:
    values = resolved()
    assert (values["batch_size"], values["group_size"]) == (8, 8)
    assert (values["n_epochs"], values["max_steps"]) == (2, 100)
    assert (values["learning_rate"], values["learning_rate_multiplier"]) == (1e-3, 1.0)
    assert (values["eval_interval"], values["eval_samples"]) == (10, 200)
    assert (values["eval_pass_k"], values["early_stopping_patience"]) == (4, None)
    assert values["checkpoint_interval"] == 10
    assert values["compute_multiplier"] == 1.0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"n_epochs": 1}, 50),
        ({"n_epochs": 3, "max_steps": 20}, 20),
        ({"n_epochs": 1, "max_steps": 1000}, 50),
        ({"max_steps": 250}, 250),
        ({"batch_size": 200, "n_epochs": 1}, 2),
    ],
)
def test_epochs_or_steps_whichever_comes_first(asked: dict[str, Any], expected: int) -> None:
    assert resolved(**asked)["max_steps"] == expected


def test_multipliers_scale_the_models_own() -> None:
    values = resolved(learning_rate_multiplier=0.5, compute_multiplier=2)
    assert values["learning_rate"] == pytest.approx(5e-4)
    assert values["group_size"] == 16
    assert resolved(compute_multiplier=0.01)["group_size"] == 2
    assert resolved(learning_rate=3e-4)["learning_rate_multiplier"] == pytest.approx(0.3)


def test_few_rows_shrink_an_auto_batch_and_refuse_an_asked_one() -> None:
    assert resolved(num_rows=3)["batch_size"] == 3
    with pytest.raises(JobFailure, match="has 3 rows") as failure:
        resolved(num_rows=3, batch_size=4)
    assert failure.value.param == "method.reinforcement.hyperparameters.batch_size"


def test_more_held_out_rows_than_there_are_is_refused() -> None:
    with pytest.raises(JobFailure, match="validation file has 300 rows"):
        resolved(eval_samples=301)
