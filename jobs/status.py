"""States of a job, the one table of transitions, and the typed reasons for an end."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """OpenAI's words on the wire."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})

# States in which an attempt holds the job: its writes count, its lease runs.
HELD = frozenset({Status.RUNNING, Status.PAUSING})

# Terminal states have no row: they never change.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.VALIDATING_FILES: frozenset({Status.QUEUED, Status.FAILED, Status.CANCELLED}),
    Status.QUEUED: frozenset({Status.RUNNING, Status.FAILED, Status.CANCELLED}),
    Status.RUNNING: frozenset(
        {
            Status.PAUSING,
            Status.QUEUED,  # the attempt was lost; another one goes on
            Status.SUCCEEDED,
            Status.FAILED,
            Status.CANCELLED,
        }
    ),
    Status.PAUSING: frozenset({Status.PAUSED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
}


def sources(target: Status) -> tuple[Status, ...]:
    """The states from which `target` may be entered, for an UPDATE's WHERE clause."""
    return tuple(state for state, targets in TRANSITIONS.items() if target in targets)


class Phase(StrEnum):
    """What a running attempt is doing."""

    DOWNLOADING = "downloading"
    LOADING = "loading"
    SAMPLING = "sampling"
    GRADING = "grading"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"


class Reason(StrEnum):
    """Why a job ended or waits, on the wire as `error.code` where it failed."""

    CANCELLED_BY_USER = "cancelled_by_user"
    PAUSED_BY_USER = "paused_by_user"
    LIMIT_REACHED = "limit_reached"
    INVALID_TRAINING_FILE = "invalid_training_file"
    INVALID_VALIDATION_FILE = "invalid_validation_file"
    INVALID_HYPERPARAMETERS = "invalid_hyperparameters"
    MODEL_NOT_AVAILABLE = "model_not_available"
    GRADER_FAILED = "grader_failed"
    NON_FINITE_GRADIENTS = "non_finite_gradients"
    NON_FINITE_LOGPROBS = "non_finite_logprobs"
    SAMPLER_DESYNC = "sampler_desync"
    INVALID_CHECKPOINT = "invalid_checkpoint"
    OUT_OF_MEMORY = "out_of_memory"
    TRAINER_CRASHED = "trainer_crashed"
    NO_PROGRESS = "no_progress"
    WORKER_LOST = "worker_lost"
    DISK_FULL = "disk_full"
    ARTIFACTS_UNAVAILABLE = "artifacts_unavailable"
    INTERNAL_ERROR = "internal_error"


# What will be there again: a job that ends an attempt for want of it waits, however long it takes.
PASSING = frozenset({Reason.DISK_FULL, Reason.ARTIFACTS_UNAVAILABLE})
