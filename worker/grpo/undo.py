"""A step that is not finished leaves no trace: what it changed is taken back."""

from types import TracebackType

from torch import Tensor
from torch.optim import Optimizer

from worker.grpo.checkpoint import capture, reinstate
from worker.grpo.gate import SamplerGate
from worker.grpo.policy import Policy


class Undo:
    """Around one step: whatever stops it, the run is as it was after the last finished one.

    The gate then proves everything again, because the adapter was put in place anew.
    """

    def __init__(self, policy: Policy, optimizer: Optimizer, gate: SamplerGate) -> None:
        self.policy = policy
        self.optimizer = optimizer
        self.gate = gate
        self.before: dict[str, Tensor] | None = None

    def keep(self) -> None:
        """Copy the adapter and its optimizer's moments: updates come, and can be interrupted."""
        self.before = capture(self.policy.trainable, self.optimizer)

    def back(self) -> None:
        """Put back what was kept, and forget gradients."""
        self.optimizer.zero_grad()
        if self.before is not None:
            reinstate(self.before, self.policy.trainable, self.optimizer)
            self.before = None

    def __enter__(self) -> "Undo":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.back()
            self.gate.restart()
