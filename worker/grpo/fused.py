"""A forward pass of our own for decoders of the Llama shape (Llama, Qwen2, Qwen3) on the CPU.

What the Hugging Face modules compute, with the products of layers that read the same input as
one, weights in the CPU's own layout, and none of the work between modules: at the few rows of a
decode step that is more than half of the time. Weights are read when it is made, so it serves a
phase in which none changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaModel, Qwen2Model, Qwen3Model

from worker.grpo.lora import MAX_WEIGHTS
from worker.grpo.policy import Policy
from worker.grpo.product import Product, is_linear

# Llama's sublayers under the names that all three give them.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")  # Not a function of the length so far.

# Of a layer's index and its queries, keys and values [N, heads, size]: [N, heads * size].
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def fits(policy: Policy) -> bool:
    """Return whether `FusedDecoder` computes what this policy's decoder does, and affordably."""
    return is_fused(
        policy.decoder,
        num_weights=policy.num_base_weights,
        device=policy.device.type,
        dtype=policy.dtype,
    )


def is_fused(decoder: nn.Module, *, num_weights: int, device: str, dtype: torch.dtype) -> bool:
    """As `fits`, for a decoder that may be without weights; its base has `num_weights`."""
    model = cast(Any, decoder)
    if type(model) not in (LlamaModel, Qwen2Model, Qwen3Model):
        return False
    config = model.config
    return (
        device == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in FIXED_ROTATIONS
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and type(model.embed_tokens) is nn.Embedding
        and all(is_linear(linear) for layer in model.layers for linear in _linears(layer))
        and num_weights <= MAX_WEIGHTS
    )


def product_bytes(decoder: nn.Module) -> int:
    """Bytes of the products in fp32 that `FusedDecoder` makes of a decoder without an adapter.

    One only changes their values: each holds the sum of weights and adapter.
    """
    layers = cast(Any, decoder).layers
    weights = (p for layer in layers for linear in _linears(layer) for p in linear.parameters())
    return 4 * sum(p.numel() for p in weights)


def _linears(layer: Any) -> list[nn.Module]:
    attention = [getattr(layer.self_attn, name) for name in ATTENTION]
    return attention + [getattr(layer.mlp, name) for name in MLP]


@dataclass(frozen=True, slots=True)
class _Layer:
    before_attention: Tensor
    before_mlp: Tensor
    """Weights of the two norms."""
    head_norm: Tensor | None
    """[query and key heads, size] weights of Qwen3's norms."""
    qkv: Product
    out: Product
    gate: Product
    up: Product
    down: Product


class FusedDecoder:
    """The policy's decoder as it is now, adapter and all: ids to hidden states."""

    def __init__(self, policy: Policy) -> None:
        """For a policy that `fits`."""
        self.decoder = cast(Any, policy.decoder)
        self.head = policy.head
        self.dtype = policy.dtype
        self.eps = torch.tensor(self.decoder.config.rms_norm_eps)
        attention = self.decoder.layers[0].self_attn
        self.head_size = attention.head_dim
        self.num_heads = self.decoder.config.num_attention_heads
        self.kv_heads = self.decoder.config.num_key_value_heads
        self.fingerprint = policy.adapter_fingerprint()
        """Of the adapter that is read here and drawn with as long as this decoder is used."""
        self.layers = [self._read(layer) for layer in self.decoder.layers]

    def _read(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        head_norm = None
        if hasattr(attention, "q_norm"):
            norms = [attention.q_norm.weight] * self.num_heads
            norms += [attention.k_norm.weight] * self.kv_heads
            head_norm = torch.stack(norms)
        return _Layer(
            layer.input_layernorm.weight,
            layer.post_attention_layernorm.weight,
            head_norm,
            Product([attention.q_proj, attention.k_proj, attention.v_proj]),
            Product([attention.o_proj]),
            Product([mlp.gate_proj]),
            Product([mlp.up_proj]),
            Product([mlp.down_proj]),
        )

    def rotation(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines [positions, 1, size] of the rotary embedding."""
        example = self.decoder.embed_tokens.weight[:1]
        cos, sin = self.decoder.rotary_emb(example, torch.arange(num_positions)[None])
        half = self.head_size // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        return cos[0, :, None], sin[0, :, None]

    def hidden(
        self,
        ids_N: Tensor,
        rotation: tuple[Tensor, Tensor],
        attend: Attend,
        *,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Return [N, H] last hidden states, or only those `wanted`; `rotation` one a token."""
        x_NH = self.decoder.embed_tokens(ids_N)
        for index, layer in enumerate(self.layers):
            q, k, v = self._heads(layer, x_NH, rotation)
            mixed = attend(index, q, k, v)
            if wanted is not None and index == len(self.layers) - 1:
                mixed, x_NH = mixed[wanted], x_NH[wanted]
            x_NH = layer.out(mixed, plus=x_NH)
            normed = self._normed(x_NH, layer.before_mlp)
            x_NH = layer.down(layer.up(normed, times=layer.gate.silu(normed)), plus=x_NH)
        return self._normed(x_NH, self.decoder.norm.weight)

    def _heads(
        self, layer: _Layer, x_NH: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [N, heads, size] of one layer."""
        normed = self._normed(x_NH, layer.before_attention)
        qkv = layer.qkv(normed).view(len(x_NH), -1, self.head_size)
        qk, v = qkv[:, : -self.kv_heads], qkv[:, -self.kv_heads :]
        if layer.head_norm is not None:
            qk = self._normed(qk, layer.head_norm)
        # https://arxiv.org/abs/2104.09864: the two halves of a head turn against each other.
        cos, sin = rotation
        one, other = qk.chunk(2, dim=-1)
        qk = (qk * cos).addcmul_(torch.cat([other, one], dim=-1), sin)
        return qk[:, : self.num_heads], qk[:, self.num_heads :], v

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm, https://arxiv.org/abs/1910.07467, in fp32: x / sqrt(mean(x^2) + eps) * w."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(weight).to(x.dtype)
