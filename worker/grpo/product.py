"""Matrix products with weights that stay as they are for a phase, laid out once for the CPU.

oneDNN's own layout of a weight makes a product 1.5 to 2 times as fast at the few rows of a decode
step. The operators are those that torch's compiler emits for weights it knows to be frozen.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional as F

from worker.grpo.lora import ApartLinear, SummedLinear

TYPICAL_ROWS = 16  # What the layout is chosen for; any number of rows can be multiplied.
MIN_LAID_OUT = 1 << 18  # Fewer weights stay in a cache near the core: their layout gains nothing.


class Product:
    """x to W x + s B (A x) + b for the stacked weights of layers with one input.

    fp32 holds the sum W + s B A, equal to rounding. In bf16 a small B A would vanish in it: there
    W and s B lie side by side and are added up in the product's fp32 accumulator,

        [W, s B] [x; A x]  =  W x + s B (A x)
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """Take the weights as they are now, whatever PEFT's switches say is in force."""
        parts = [linear_parts(layer) for layer in layers]
        self.bias = _stacked_bias(parts)
        self.down: Tensor | None = None
        if parts[0][0].dtype == torch.bfloat16:
            weight = torch.cat([weight for weight, *_ in parts])
            adapters = [adapter for *_, adapter in parts]
            if any(adapters):
                downs, ups = zip(*(_in_bf16(weight, a) for weight, _, a in parts), strict=True)
                self.down = _laid_out(torch.cat(downs))
                weight = torch.cat([weight, torch.block_diag(*ups)], dim=1)
        else:
            weight = torch.cat([_summed(weight, adapter) for weight, _, adapter in parts])
        self.weight = _laid_out(weight)

    def __call__(
        self, x_NK: Tensor, *, plus: Tensor | None = None, times: Tensor | None = None
    ) -> Tensor:
        """Return [N, all outputs], with `plus` added or multiplied by `times` where given."""
        x_NK = self._widened(x_NK)
        if not self.weight.is_mkldnn:
            y_NM = F.linear(x_NK, self.weight, self.bias)
            y_NM = y_NM if plus is None else y_NM.add_(plus)
            return y_NM if times is None else y_NM.mul_(times)
        other, name = (plus, "add") if times is None else (times, "mul")
        if other is None:
            return _packed(x_NK, self.weight, self.bias, "none")
        linear: Any = torch.ops.mkldnn._linear_pointwise.binary
        return cast(Tensor, linear(x_NK, other, self.weight, self.bias, name))

    def silu(self, x_NK: Tensor) -> Tensor:
        """Return y * sigmoid(y) of the outputs y."""
        x_NK = self._widened(x_NK)
        if not self.weight.is_mkldnn:
            return F.silu(F.linear(x_NK, self.weight, self.bias), inplace=True)
        return _packed(x_NK, self.weight, self.bias, "swish")

    def _widened(self, x_NK: Tensor) -> Tensor:
        """Return [x, A x] where A is apart."""
        if self.down is None:
            return x_NK
        is_packed = self.down.is_mkldnn
        down = _packed(x_NK, self.down, None, "none") if is_packed else x_NK @ self.down.T
        return torch.cat([x_NK, down], dim=-1)


Adapter = tuple[Tensor, Tensor, float]


def is_linear(linear: nn.Module) -> bool:
    """Return whether it is a linear layer, adapter or not, that `linear_parts` can take apart."""
    if type(linear) in (lora.Linear, SummedLinear, ApartLinear):
        linear = cast(lora.Linear, linear).base_layer
    return type(linear) is nn.Linear


def linear_parts(layer: nn.Module) -> tuple[Tensor, Tensor | None, Adapter | None]:
    """Return a linear layer's weight, bias, and A, B and s where an adapter is in force."""
    if not isinstance(layer, lora.Linear):
        linear = cast(nn.Linear, layer)
        return linear.weight, linear.bias, None
    base = cast(nn.Linear, layer.base_layer)
    if layer.disable_adapters or layer.merged:
        return base.weight, base.bias, None
    [name] = layer.active_adapters
    a, b = (cast(nn.Linear, part[name]).weight for part in (layer.lora_A, layer.lora_B))
    return base.weight, base.bias, (a, b, layer.scaling[name])


def _summed(weight: Tensor, adapter: Adapter | None) -> Tensor:
    if adapter is None:
        return weight
    a, b, scaling = adapter
    return torch.addmm(weight, b, a, alpha=scaling)


def _in_bf16(weight: Tensor, adapter: Adapter | None) -> tuple[Tensor, Tensor]:
    """Return A and s B; of no rows and columns where the layer has no adapter."""
    if adapter is None:
        return weight.new_empty(0, weight.shape[1]), weight.new_empty(weight.shape[0], 0)
    a, b, scaling = adapter
    return a.to(weight.dtype), (b * scaling).to(weight.dtype)


def _stacked_bias(parts: Sequence[tuple[Tensor, Tensor | None, Adapter | None]]) -> Tensor | None:
    if all(bias is None for _, bias, _ in parts):
        return None
    return torch.cat(
        [w.new_zeros(len(w)) if bias is None else bias.detach() for w, bias, _ in parts]
    )


def _laid_out(weight: Tensor) -> Tensor:
    if weight.numel() < MIN_LAID_OUT or not torch.backends.mkldnn.is_available():
        return weight
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TYPICAL_ROWS)
    return packed


def _packed(x_NK: Tensor, weight: Tensor, bias: Tensor | None, function: str) -> Tensor:
    linear: Any = torch.ops.mkldnn._linear_pointwise
    return cast(Tensor, linear(x_NK, weight, bias, function, [], ""))
