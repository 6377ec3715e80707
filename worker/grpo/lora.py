"""LoRA layers with fewer products than PEFT's, and with a backward pass of their own.

    W x + s B (A x)  =  (W + s B A) x

In fp32 the two sides are equal to rounding, so a small model on a CPU has one product where PEFT
makes three and an addition (`SummedLinear`). The sum is made anew from W, A and B for every update
and W itself is never touched, so nothing drifts. In bf16 a small B A would vanish beside W: there
the adapter stays apart (`ApartLinear`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional as F

MAX_WEIGHTS = 1 << 28  # Above it (1 GiB in fp32) the copies that a pass holds are not worth it.


def linear_class(base: nn.Module) -> "type[_Linear] | None":
    """Return the LoRA layer for this base model, None where PEFT's own is to be used."""
    weights = list(base.parameters())
    if all(w.dtype == torch.bfloat16 for w in weights):
        return ApartLinear
    is_fp32 = all(w.dtype in (torch.float32, torch.float64) for w in weights)
    is_on_cpu = all(w.device.type == "cpu" for w in weights)
    if is_fp32 and is_on_cpu and sum(w.numel() for w in weights) <= MAX_WEIGHTS:
        return SummedLinear
    return None


class _Linear(lora.Linear):
    """PEFT's LoRA layer with another forward; its weights, names and files are PEFT's."""

    _fixed: tuple[Tensor, ...] | None = None
    """What `prepared` gave, while no adapter weight changes."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output, [..., out features]."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        weight, a, b, scaling = self.operands()
        with torch.no_grad():
            fixed = self._fixed or self.prepared(weight, a, b, scaling)
        bias = cast(nn.Linear, self.base_layer).bias
        if not torch.is_grad_enabled():
            return self.product(x, weight, bias, fixed)
        return self.function.apply(x, weight, bias, a, b, scaling, *fixed)

    def operands(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return W, A, B and s."""
        [name] = self.active_adapters
        a, b = (cast(nn.Linear, part[name]).weight for part in (self.lora_A, self.lora_B))
        return cast(nn.Linear, self.base_layer).weight, a, b, self.scaling[name]

    function: type[torch.autograd.Function]
    """The product with its backward pass."""

    @staticmethod
    def prepared(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, ...]:
        """Return what every pass needs of the weights."""
        raise NotImplementedError

    @staticmethod
    def product(x: Tensor, weight: Tensor, bias: Tensor, fixed: tuple[Tensor, ...]) -> Tensor:
        """Return the layer's output from what `prepared` gave."""
        raise NotImplementedError


def adapted_layers(model: nn.Module) -> list[_Linear]:
    """Return the layers of this module's own in a model."""
    return [module for module in model.modules() if isinstance(module, _Linear)]


@contextmanager
def fixed_weights(layers: Sequence[_Linear]) -> Iterator[None]:
    """Within it no adapter weight may change: what layers need of them is made once, not a pass."""
    layers = [layer for layer in layers if not layer.disable_adapters]
    try:
        with torch.no_grad():
            for layer in layers:
                layer._fixed = layer.prepared(*layer.operands())
        yield
    finally:
        for layer in layers:
            layer._fixed = None


class _SummedProduct(torch.autograd.Function):
    """x (W + s B A)^T with the gradients of x, A and B; W is frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        a: Tensor,
        b: Tensor,
        scaling: float,
        total: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, a, b, total)
        ctx.scaling = scaling
        return F.linear(x, total, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, total = ctx.saved_tensors
        rows_x, rows_grad = x.flatten(0, -2), grad.flatten(0, -2)
        grad_x = grad @ total if ctx.needs_input_grad[0] else None
        grad_a = (rows_grad @ b).T @ rows_x * ctx.scaling
        grad_b = ((rows_x @ a.T).T @ rows_grad * ctx.scaling).T
        return grad_x, None, None, grad_a, grad_b, None, None


class SummedLinear(_Linear):
    """One product with W + s B A: for fp32."""

    function = _SummedProduct

    @staticmethod
    def prepared(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, ...]:
        """Return W + s B A."""
        return (torch.addmm(weight, b, a, alpha=scaling),)

    @staticmethod
    def product(x: Tensor, weight: Tensor, bias: Tensor, fixed: tuple[Tensor, ...]) -> Tensor:
        """Return x (W + s B A)^T."""
        return F.linear(x, fixed[0], bias)


class _ApartProduct(torch.autograd.Function):
    """x W^T + (x A^T) (s B)^T in the base's dtype; the gradients of A and B are summed in fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        a: Tensor,
        b: Tensor,
        scaling: float,
        down: Tensor,
        up: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scaling = scaling
        return ApartLinear.product(x, weight, bias, (down, up))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up = ctx.saved_tensors
        rows_x, rows_grad = x.flatten(0, -2), grad.flatten(0, -2)
        inner_grad = rows_grad @ up
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (rows_grad @ weight).addmm_(inner_grad, down).view_as(x)
        inner = rows_x @ down.T
        grad_a = inner_grad.float().T @ rows_x.float()
        grad_b = (inner.float().T @ rows_grad.float() * ctx.scaling).T
        return grad_x, None, None, grad_a, grad_b, None, None, None


class ApartLinear(_Linear):
    """The base's product and the adapter's added to it: for bf16.

    A and s B are rounded to bf16 for use and kept in fp32. Unlike the sum's, that rounding swallows
    no small change: their values lie anywhere between two of bf16's, and not on them as W's do.
    """

    function = _ApartProduct

    @staticmethod
    def prepared(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, ...]:
        """Return A and s B in W's dtype."""
        return a.to(weight.dtype), (b * scaling).to(weight.dtype)

    @staticmethod
    def product(x: Tensor, weight: Tensor, bias: Tensor, fixed: tuple[Tensor, ...]) -> Tensor:
        """Return x W^T + (x A^T) (s B)^T."""
        down, up = fixed
        rows_x = x.flatten(0, -2)
        rows = F.linear(rows_x, weight, bias).addmm_(rows_x @ down.T, up.T)
        return rows.unflatten(0, x.shape[:-1])
