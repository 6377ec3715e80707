"""What only the model itself can refuse ends the job with a reason, not with a crash."""

import pytest

from jobs.errors import JobFailure
from jobs.hyperparameters import Lora
from jobs.registry import STARTER_FOLDER
from jobs.status import Reason
from worker.train import load_policy


def test_layers_that_the_model_does_not_have_are_named() -> None:
    with pytest.raises(JobFailure, match="c_attn") as failure:
        load_policy(STARTER_FOLDER, Lora(target_modules=["c_attn"]), seed=0)

    assert failure.value.reason is Reason.INVALID_HYPERPARAMETERS
    assert str(failure.value.param).endswith("lora.target_modules")


def test_layers_that_it_has_are_taken() -> None:
    policy = load_policy(STARTER_FOLDER, Lora(rank=2, target_modules=["q_proj"]), seed=0)
    assert all("q_proj" in name for name in policy.trainable)
