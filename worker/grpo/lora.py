"""LoRA layers of small fp32 models as one matrix product where PEFT makes three and an addition.

    W x + s B (A x)  =  (W + s B A) x

The sum is made anew from W, A and B in every pass and W itself is never touched, so nothing
drifts; in fp32 the two sides are equal to rounding. Not so in bf16, where small B A vanish beside
W: there PEFT's own layers stay. On the CPU it is worth a quarter of a small model's step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional as F

MAX_WEIGHTS = 1 << 28  # Above it (1 GiB in fp32) the copies that a pass holds are not worth it.


def suits(base: nn.Module) -> bool:
    """Return whether `SummedLinear` is exact and affordable for this base model."""
    weights = list(base.parameters())
    return (
        all(w.device.type == "cpu" and w.dtype in (torch.float32, torch.float64) for w in weights)
        and sum(w.numel() for w in weights) <= MAX_WEIGHTS
    )


class SummedLinear(lora.Linear):
    """PEFT's LoRA layer with another forward; its weights, names and files are PEFT's."""

    _fixed_sum: Tensor | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output, [..., out features]."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        bias = cast(nn.Linear, self.base_layer).bias
        if self._fixed_sum is not None:
            return F.linear(x, self._fixed_sum, bias)
        return _SummedProduct.apply(x, *self.operands(), bias)

    def operands(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return W, A, B and s."""
        [name] = self.active_adapters
        a, b = (cast(nn.Linear, part[name]).weight for part in (self.lora_A, self.lora_B))
        return cast(nn.Linear, self.base_layer).weight, a, b, self.scaling[name]


@contextmanager
def fixed_sums(model: nn.Module) -> Iterator[None]:
    """Within it no adapter weight may change: each layer's sum is made once, not every pass."""
    layers = [m for m in model.modules() if isinstance(m, SummedLinear) and not m.disable_adapters]
    with torch.no_grad():
        for layer in layers:
            layer._fixed_sum = _sum(*layer.operands())
    try:
        yield
    finally:
        for layer in layers:
            layer._fixed_sum = None


def _sum(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    return torch.addmm(weight, b, a, alpha=scaling)


class _SummedProduct(torch.autograd.Function):
    """x (W + s B A)^T with the gradients of x, A and B; W is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float, bias: Tensor
    ) -> Tensor:
        total = _sum(weight, a, b, scaling)
        ctx.save_for_backward(x, a, b, total)
        ctx.scaling = scaling
        return F.linear(x, total, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, total = ctx.saved_tensors
        rows_x, rows_grad = x.flatten(0, -2), grad.flatten(0, -2)
        grad_x = grad @ total if ctx.needs_input_grad[0] else None
        grad_a = (rows_grad @ b).T @ rows_x * ctx.scaling
        grad_b = rows_grad.T @ (rows_x @ a.T) * ctx.scaling
        return grad_x, None, grad_a, grad_b, None, None
