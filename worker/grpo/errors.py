"""What can end a training run from inside the engine, each with its sentence.

    GrpoError
      * InvalidConfig          a number that no run could use
      * InvalidCheckpoint      a folder that is not the training state of this run
      * UnsupportedModel       a base model that the engine cannot train rightly
      * SamplerDesync          sampler and trainer disagree about the policy
      * NonFiniteLogprobs      the model no longer gives probabilities
      * NonFiniteGradients     updates kept coming out NaN or infinite
      * OutOfMemory            one sequence alone needs more memory than there is
      * Interrupted            the caller asked to stop; raised by the caller's own hook

All of them survive pickling: a trainer process may hand them to its parent.
"""


class GrpoError(Exception):
    """The training run cannot go on."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class InvalidConfig(GrpoError, ValueError):
    """The training configuration is impossible."""


class InvalidCheckpoint(GrpoError, ValueError):
    """The folder does not hold a training state of this run."""


class UnsupportedModel(GrpoError, ValueError):
    """The base model cannot be trained by this engine."""


class SamplerDesync(GrpoError):
    """The sampler's log-probs are not those of the policy being trained."""


class NonFiniteLogprobs(GrpoError, ArithmeticError):
    """The model gave log-probs that are NaN or infinite for tokens it drew."""


class NonFiniteGradients(GrpoError, ArithmeticError):
    """Too many updates came out NaN or infinite."""


class OutOfMemory(GrpoError, MemoryError):
    """One sequence alone does not fit in memory."""


class Interrupted(GrpoError):
    """The run was asked to stop; its state is that after the last finished step."""
