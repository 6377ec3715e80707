"""What the owner of a job is told when the engine ends it."""

import pytest
import torch

from jobs.errors import JobFailure
from jobs.status import Reason
from worker.grpo import errors
from worker.grpo.errors import GrpoError, Interrupted
from worker.outcome import as_failure

REASONS = {
    errors.SamplerDesync: Reason.SAMPLER_DESYNC,
    errors.NonFiniteGradients: Reason.NON_FINITE_GRADIENTS,
    errors.OutOfMemory: Reason.OUT_OF_MEMORY,
    errors.NonFiniteLogprobs: Reason.NON_FINITE_LOGPROBS,
    errors.InvalidConfig: Reason.INVALID_HYPERPARAMETERS,
    errors.UnsupportedModel: Reason.MODEL_NOT_AVAILABLE,
    errors.InvalidCheckpoint: Reason.INVALID_CHECKPOINT,
}


@pytest.mark.parametrize(("error", "reason"), REASONS.items())
def test_each_end_has_its_reason_and_keeps_its_sentence(
    error: type[GrpoError], reason: Reason
) -> None:
    failure = as_failure(error("The base_checksum is another one."))
    assert (failure.reason, failure.message) == (reason, "The base_checksum is another one.")
    assert as_failure(error()).message.endswith(".")


def test_no_end_of_the_engine_is_without_a_reason() -> None:
    tree = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, GrpoError)}
    assert tree - {GrpoError, Interrupted} == REASONS.keys()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError("no room")]
)
def test_memory_that_ran_out_is_told_as_such(error: Exception) -> None:
    failure = as_failure(error)
    assert failure.reason is Reason.OUT_OF_MEMORY
    assert str(error) in failure.message


def test_what_nobody_foresaw_is_a_crash_for_the_supervisor_to_tell() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        as_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_failure_of_the_job_is_told_as_it_is() -> None:
    failure = JobFailure(Reason.GRADER_FAILED, "It failed.")
    assert as_failure(failure) is failure
