"""What an error inside an attempt means for its job: a typed reason and a sentence."""

from __future__ import annotations

from jobs import disk
from jobs.errors import JobFailure, StoreAway
from jobs.status import Reason
from worker.evidence import disk_full, store_away
from worker.grpo.errors import (
    GrpoError,
    InvalidCheckpoint,
    InvalidConfig,
    NonFiniteGradients,
    NonFiniteLogprobs,
    OutOfMemory,
    SamplerDesync,
    UnsupportedModel,
)
from worker.grpo.memory import is_out_of_memory

REASONS: dict[type[GrpoError], Reason] = {
    SamplerDesync: Reason.SAMPLER_DESYNC,
    NonFiniteGradients: Reason.NON_FINITE_GRADIENTS,
    OutOfMemory: Reason.OUT_OF_MEMORY,
    NonFiniteLogprobs: Reason.NON_FINITE_LOGPROBS,
    # A number that only became impossible when the first attempt resolved `auto`.
    InvalidConfig: Reason.INVALID_HYPERPARAMETERS,
    UnsupportedModel: Reason.MODEL_NOT_AVAILABLE,
    # No retry: the next attempt would find the same state.
    InvalidCheckpoint: Reason.INVALID_CHECKPOINT,
}


def as_failure(error: Exception) -> JobFailure:
    """The error as the job's owner is told of it; what nobody foresaw is raised again."""
    if isinstance(error, JobFailure):
        return error
    if disk.is_full(error):
        return disk_full(error)
    if isinstance(error, StoreAway):
        return store_away(error)
    if not isinstance(error, GrpoError):
        if not is_out_of_memory(error):
            raise error
        return JobFailure(
            Reason.OUT_OF_MEMORY,
            f"The device ran out of memory outside of a pass over sequences: {error}. A smaller "
            "model or lora.rank needs less, or a larger device.",
        )
    return JobFailure(REASONS.get(type(error), Reason.INTERNAL_ERROR), str(error))
