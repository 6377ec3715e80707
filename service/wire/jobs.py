"""A fine-tuning job on the wire: OpenAI's fields, all of them always, and ours beside them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from jobs.graders.endpoint import without_secrets
from jobs.hyperparameters import AUTO
from jobs.limits import Limits, Spent
from jobs.models import Job, Json
from jobs.names import tuned_model
from jobs.spec import EVALUATION_KEYS
from jobs.status import TERMINAL, Phase, Reason, Status
from jobs.store import fitting, losses


class JobError(BaseModel):
    code: str
    message: str
    param: str | None


class TopLevelHyperparameters(BaseModel):
    """OpenAI's older place for the three it knew first; clients read it on every job."""

    n_epochs: int | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]


class ReinforcementObject(BaseModel):
    grader: dict[str, JsonValue]
    hyperparameters: dict[str, JsonValue]
    response_format: dict[str, JsonValue] | None


class MethodObject(BaseModel):
    type: Literal["reinforcement"] = "reinforcement"
    reinforcement: ReinforcementObject


class FineTuningJob(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Status
    error: JobError | None
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    hyperparameters: TopLevelHyperparameters
    method: MethodObject
    seed: int
    user_provided_suffix: str | None
    metadata: dict[str, str] | None
    integrations: list[JsonValue] = []

    phase: Phase | None
    """What a running job is doing."""
    reason: Reason | None
    """Why it ended, waits or paused."""
    waiting_for: str | None
    """What a queued job needs that no free worker has (memory, with the numbers, or a GPU), or
    what its last attempt was lost to and when it is tried again."""
    step: int
    total_steps: int | None
    progress: dict[str, JsonValue]
    attempt: int
    priority: int
    rollouts_per_step: int | None
    """`batch_size` prompts times `group_size` completions, once both are resolved."""
    verdict: str | None
    """What training did to the rewards of the held-out rows: `improved` or `worse` where the whole
    95 % interval of the gain says so, `no_change` where it does not, and `unknown` where fewer than
    8 rows were scored both before and after, or their rewards cannot be compared."""
    limits: Limits | None
    """What it may spend before it is paused."""
    spent: Spent
    """What it has spent since it was made or last resumed, as far as its attempts have written."""


def job_object(job: Job) -> FineTuningJob:
    spec = job.spec
    reinforcement = spec["method"]["reinforcement"]
    hyperparameters = resolved_hyperparameters(job)
    is_over = job.status in TERMINAL
    return FineTuningJob(
        id=job.id,
        created_at=int(job.created_at),
        finished_at=_seconds(job.finished_at),
        estimated_finish=None if is_over else _seconds(job.estimated_finish_at),
        model=job.model,
        fine_tuned_model=tuned_model(job) if job.status == Status.SUCCEEDED else None,
        organization_id=job.project_id,
        status=Status(job.status),
        error=_error(job),
        training_file=job.training_file,
        validation_file=job.validation_file,
        result_files=[job.result_file] if job.result_file else [],
        trained_tokens=job.trained_tokens if is_over else None,
        hyperparameters=TopLevelHyperparameters(
            n_epochs=hyperparameters["n_epochs"],
            batch_size=hyperparameters["batch_size"],
            learning_rate_multiplier=hyperparameters["learning_rate_multiplier"],
        ),
        method=MethodObject(
            reinforcement=ReinforcementObject(
                grader=without_secrets(reinforcement["grader"]),
                hyperparameters=hyperparameters,
                response_format=reinforcement.get("response_format"),
            )
        ),
        seed=job.seed,
        user_provided_suffix=spec.get("suffix"),
        metadata=spec.get("metadata"),
        phase=Phase(job.phase) if job.phase else None,
        reason=Reason(job.reason) if job.reason else None,
        waiting_for=_waiting_for(job),
        step=job.step,
        total_steps=job.total_steps,
        progress=job.progress,
        attempt=job.attempt,
        priority=job.priority,
        rollouts_per_step=_rollouts_per_step(hyperparameters),
        verdict=job.verdict,
        limits=spec.get("limits"),
        spent=Spent.model_validate(job.spent),
    )


def resolved_hyperparameters(job: Job) -> Json:
    """As sent, with what `"auto"` came to wherever that is known by now and says something."""
    sent: Json = job.spec["method"]["reinforcement"]["hyperparameters"]
    known: Json = job.resolved.get("hyperparameters", {})
    if job.validation_file is None:
        known = {key: value for key, value in known.items() if key not in EVALUATION_KEYS}
    return {key: known.get(key, AUTO) if value == AUTO else value for key, value in sent.items()}


def _rollouts_per_step(hyperparameters: Json) -> int | None:
    prompts: Any = hyperparameters["batch_size"]
    group: Any = hyperparameters["group_size"]
    return prompts * group if AUTO not in (prompts, group) else None


def _waiting_for(job: Job) -> str | None:
    if job.status != Status.QUEUED:
        return None
    if job.turned_away is None:
        return losses.sentence(job)
    return fitting.sentence(job.turned_away)


def _error(job: Job) -> JobError | None:
    """Of a failed job only: a cancelled one has no error, and an empty object breaks parsers."""
    if job.status != Status.FAILED:
        return None
    return JobError(
        code=job.reason or Reason.INTERNAL_ERROR,
        message=job.error_message or "",
        param=job.error_param,
    )


def _seconds(at: float | None) -> int | None:
    return None if at is None else int(at)
