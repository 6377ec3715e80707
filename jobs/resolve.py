"""From what was asked and what the files hold to numbers: every `auto` that needs no model run.

The first attempt adds what needs the model or the machine: completion length, threads,
micro-batches.
"""

from __future__ import annotations

import math
from typing import Any

from jobs.errors import BadRequest, JobFailure
from jobs.hyperparameters import (
    AUTO,
    DEFAULT_GROUP_SIZE,
    Auto,
    Hyperparameters,
    scaled_group_size,
)
from jobs.status import Reason

DEFAULT_BATCH_SIZE = 8
MIN_STEPS = 100
MAX_EVAL_SAMPLES = 200
NUM_EVALUATIONS = 10
DEFAULT_PASS_K = 4
NUM_CHECKPOINTS = 10

# Up to here a multiplier may be sent, so up to here one is shown.
MAX_COMPUTE_MULTIPLIER = 10
MAX_RATE_MULTIPLIER = 1000


def resolve(
    asked: Hyperparameters, *, num_rows: int, num_held_out: int, model_learning_rate: float
) -> dict[str, Any]:
    """Every hyperparameter as a number, but `max_completion_tokens` where that is auto.

    Raises JobFailure when the files cannot carry what was asked.
    """
    values = asked.model_dump()
    values["group_size"] = _group_size(asked)
    values["batch_size"] = _batch_size(asked, num_rows)
    values["n_epochs"], total_steps = _steps(asked, num_rows, values["batch_size"])
    values["max_steps"] = total_steps
    values["learning_rate"], values["learning_rate_multiplier"] = _rate(asked, model_learning_rate)
    if asked.compute_multiplier == AUTO:
        multiplier = values["group_size"] / DEFAULT_GROUP_SIZE
        values["compute_multiplier"] = _shown(multiplier, MAX_COMPUTE_MULTIPLIER)
    values["eval_samples"] = _eval_samples(asked, num_held_out)
    if asked.eval_pass_k == AUTO:
        values["eval_pass_k"] = DEFAULT_PASS_K
    if asked.eval_interval == AUTO:
        values["eval_interval"] = max(1, total_steps // NUM_EVALUATIONS)
    if asked.checkpoint_interval == AUTO:
        values["checkpoint_interval"] = max(1, total_steps // NUM_CHECKPOINTS)
    return values


def _group_size(asked: Hyperparameters) -> int:
    if asked.group_size != AUTO:
        return asked.group_size
    multiplier = 1.0 if asked.compute_multiplier == AUTO else asked.compute_multiplier
    return scaled_group_size(multiplier)


def _batch_size(asked: Hyperparameters, num_rows: int) -> int:
    if asked.batch_size == AUTO:
        return min(DEFAULT_BATCH_SIZE, num_rows)
    if asked.batch_size > num_rows:
        raise _impossible(
            "batch_size",
            f"batch_size is {asked.batch_size} prompts a step, and the training file has "
            f"{num_rows} rows: send more rows or a smaller batch_size.",
        )
    return asked.batch_size


def _steps(asked: Hyperparameters, num_rows: int, batch_size: int) -> tuple[int, int]:
    """Epochs and steps: an auto number of epochs is what `max_steps`, or 100 steps, need."""
    if asked.n_epochs == AUTO:
        wanted = MIN_STEPS if asked.max_steps == AUTO else asked.max_steps
        n_epochs = max(1, math.ceil(wanted * batch_size / num_rows))
    else:
        n_epochs = asked.n_epochs
    total_steps = max(1, n_epochs * num_rows // batch_size)
    if asked.max_steps != AUTO:
        total_steps = min(total_steps, asked.max_steps)
    return n_epochs, total_steps


def check_rates(asked: Hyperparameters, model_learning_rate: float) -> None:
    """Raise BadRequest where `learning_rate` and its multiplier contradict each other.

    A job that ran shows both, and may be sent again as it is shown.
    """
    if AUTO in (asked.learning_rate, asked.learning_rate_multiplier):
        return
    scaled, _ = _rate(asked.model_copy(update={"learning_rate": AUTO}), model_learning_rate)
    if asked.learning_rate == AUTO or not math.isclose(asked.learning_rate, scaled, rel_tol=1e-6):
        raise BadRequest(
            f"learning_rate is {asked.learning_rate}, and learning_rate_multiplier "
            f"({asked.learning_rate_multiplier}) makes the model's own rate {scaled:g}: keep one.",
            param="method.reinforcement.hyperparameters",
        )


def _rate(asked: Hyperparameters, model_rate: float) -> tuple[float, float | Auto]:
    """The rate, and what it is of the model's own."""
    if asked.learning_rate != AUTO:
        return asked.learning_rate, _shown(asked.learning_rate / model_rate, MAX_RATE_MULTIPLIER)
    multiplier = 1.0 if asked.learning_rate_multiplier == AUTO else asked.learning_rate_multiplier
    return model_rate * multiplier, multiplier


def _shown(multiplier: float, maximum: float) -> float | Auto:
    return multiplier if multiplier <= maximum else AUTO


def _eval_samples(asked: Hyperparameters, num_held_out: int) -> int:
    if asked.eval_samples == AUTO:
        return min(num_held_out, MAX_EVAL_SAMPLES)
    if asked.eval_samples > num_held_out:
        raise _impossible(
            "eval_samples",
            f"eval_samples is {asked.eval_samples}, and the validation file has {num_held_out} "
            "rows: send more rows or a smaller eval_samples.",
        )
    return asked.eval_samples


def _impossible(key: str, sentence: str) -> JobFailure:
    return JobFailure(
        Reason.INVALID_HYPERPARAMETERS,
        sentence,
        param=f"method.reinforcement.hyperparameters.{key}",
    )
