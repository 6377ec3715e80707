"""A model's logits in fp32, with what its config names to be done to them.

bf16 keeps 8 bits: at a logit of 16 it may be 0.06 off, as much as a policy ratio is from 1. So the
head's product leaves its accumulator in fp32 (MiniMax-M1, https://arxiv.org/abs/2506.13585,
section 3.2), for sampler and trainer alike.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.grpo.errors import UnsupportedModel
from worker.grpo.product import is_linear, linear_parts

ROUNDED = (torch.bfloat16, torch.float16)


def logits_head(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Return the function from the decoder's last hidden states to logits, fp32 or better."""
    config = model.config.get_text_config()
    scale = _logit_scale(config)
    softcap = getattr(config, "final_logit_softcapping", None)

    def head(hidden: Tensor) -> Tensor:
        logits = _product(model.get_output_embeddings(), hidden)
        if scale != 1.0:
            logits = logits * scale
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return logits

    return head


def _product(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Return the layer's output, not rounded to its weights' dtype."""
    if hidden.dtype not in ROUNDED or not is_linear(layer):
        output: Tensor = layer(hidden)
        return output.float() if output.dtype in ROUNDED else output
    weight, bias, adapter = linear_parts(layer)
    rows = hidden.flatten(0, -2)
    logits = _FullProduct.apply(rows, weight)
    if bias is not None:
        logits = logits + bias
    if adapter is not None:
        a, b, scaling = adapter
        logits = torch.addmm(logits, rows.float() @ a.T, b.T, alpha=scaling)
    return logits.unflatten(0, hidden.shape[:-1])


class _FullProduct(torch.autograd.Function):
    """x W^T in fp32 of x [N, H] and W [V, H] in bf16; W is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        if x.device.type == "cuda":
            return torch.mm(x, weight.T, out_dtype=torch.float32)
        # The CPU has no such product: a second one gives what the first has rounded away, since
        # it too is rounded only after it has subtracted the first from its accumulator.
        rounded = x @ weight.T
        rest = torch.addmm(rounded, x, weight.T, beta=-1)
        return rounded.float().add_(rest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [weight] = ctx.saved_tensors
        return grads[0].to(weight.dtype) @ weight, None


def _logit_scale(config: object) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if (scale := getattr(config, name, None)) is not None:
            return float(scale)
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    # Granite divides by it, HyperCLOVA X multiplies.
    is_factor = getattr(config, "model_type", "") == "hyperclovax"
    return float(scaling) if is_factor else 1 / float(scaling)


@torch.no_grad()
def check_head(model: PreTrainedModel, head: Callable[[Tensor], Tensor]) -> None:
    """Raise `UnsupportedModel` unless decoder and head give the logits of the whole model.

    An architecture that does more to its logits than `logits_head` knows would be trained on
    other probabilities than its own; here it is refused instead.
    """
    ids = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    expected = model(input_ids=ids, use_cache=False).logits
    found = head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(found, expected.to(found.dtype), rtol=1e-2, atol=1e-3):
        raise UnsupportedModel(
            f"{type(model).__name__} changes its logits in a way this engine does not know: "
            "training it would optimise the wrong probabilities."
        )
