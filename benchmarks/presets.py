"""The workloads that Honed and TRL are compared on: a model, prompts, limits and an adapter."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Dtype = Literal["fp32", "bf16"]
STARTER = "honed/starter"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Qwen3-shaped model with random weights. Its size is `num_linear_parameters`."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    ffn_size: int
    vocab_size: int
    is_tied: bool = False
    """Whether the head is the embedding."""

    @property
    def num_linear_parameters(self) -> int:
        """Weights of the layers' matrices: embeddings, head and norms left out."""
        attention = 2 * (self.num_heads + self.num_kv_heads) * self.head_size * self.hidden_size
        return self.num_layers * (attention + 3 * self.hidden_size * self.ffn_size)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What both sides do. A step is `num_prompts` groups of `group_size` and one update."""

    name: str
    shape: Shape | None
    """None: the starter model, which brings its own weights and questions."""
    num_prompts: int = 8
    group_size: int = 8
    prompt_tokens: int = 5
    prompt_spread: int = 0
    """Prompts are `prompt_tokens` plus or minus this many tokens long."""
    max_completion_tokens: int = 128
    mean_share: float = 0.35
    """Mean completion length over the limit. Random weights draw tokens almost uniformly, so this
    sets how many ids end a completion; what came of it is measured and shown."""
    lora_rank: int = 16
    lora_targets: str = "all-linear"
    dtype: Dtype = "fp32"
    seed: int = 0
    num_warmup_steps: int = 2
    num_steps: int = 5
    trl_micro_batches: tuple[int, ...] = (64,)
    """Rollouts a forward and backward pass of TRL, at its best settings; the fastest counts."""
    is_for_gpu: bool = False

    @property
    def num_rollouts(self) -> int:
        """Completions a step."""
        return self.num_prompts * self.group_size

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Workload":
        """Return what `as_dict` told."""
        shape = Shape(**values["shape"]) if values["shape"] else None
        splits = tuple(values["trl_micro_batches"])
        return cls(**values | {"shape": shape, "trl_micro_batches": splits})


TINY = Shape(
    num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2, head_size=16, ffn_size=128,
    vocab_size=48, is_tied=True,
)  # fmt: skip
# 25 million weights in linear layers; the vocabulary is small so that their cost is what is seen.
MID = Shape(
    num_layers=8, hidden_size=512, num_heads=4, num_kv_heads=4, head_size=128, ffn_size=1536,
    vocab_size=48,
)  # fmt: skip
QWEN3 = {
    "0.6b": Shape(
        num_layers=28, hidden_size=1024, num_heads=16, num_kv_heads=8, head_size=128,
        ffn_size=3072, vocab_size=151936, is_tied=True,
    ),
    "1.7b": Shape(
        num_layers=28, hidden_size=2048, num_heads=16, num_kv_heads=8, head_size=128,
        ffn_size=6144, vocab_size=151936, is_tied=True,
    ),
    "8b": Shape(
        num_layers=36, hidden_size=4096, num_heads=32, num_kv_heads=8, head_size=128,
        ffn_size=12288, vocab_size=151936,
    ),
}  # fmt: skip
SHAPES = {"tiny": TINY, "mid": MID, **{f"qwen3-{size}": shape for size, shape in QWEN3.items()}}


def _on_gpu(size: str, num_rollouts: int) -> Workload:
    return Workload(
        name=f"qwen3-{size}-{num_rollouts}",
        shape=QWEN3[size],
        num_prompts=num_rollouts // 8,
        prompt_tokens=128,
        prompt_spread=32,
        max_completion_tokens=1024,
        dtype="bf16",
        trl_micro_batches=(4,) if size == "8b" else (8,),
        is_for_gpu=True,
    )


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(name="tiny", shape=TINY, num_prompts=2, group_size=4, max_completion_tokens=12,
                 num_warmup_steps=1, num_steps=1, trl_micro_batches=(8,), lora_rank=4),
        Workload(name="mixed", shape=MID, prompt_spread=1),
        Workload(name="short", shape=None, max_completion_tokens=8, num_warmup_steps=4,
                 num_steps=20),
        Workload(name="long-prompt", shape=MID, prompt_tokens=256, num_prompts=2,
                 trl_micro_batches=(16,)),
        Workload(name="long", shape=replace(MID, vocab_size=224), num_prompts=2,
                 prompt_spread=1, max_completion_tokens=512, mean_share=0.4,
                 trl_micro_batches=(16,)),
        *(_on_gpu(size, num_rollouts) for size in QWEN3 for num_rollouts in (64, 512)),
    )
}  # fmt: skip


def shrunk(workload: Workload) -> Workload:
    """Return a GPU workload at a size that any machine runs: it shows that the code does."""
    return replace(
        workload,
        shape=replace(TINY, vocab_size=512),
        num_prompts=2,
        prompt_tokens=8,
        prompt_spread=2,
        max_completion_tokens=16,
        num_warmup_steps=1,
        num_steps=2,
        trl_micro_batches=(8,),
    )
