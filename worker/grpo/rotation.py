"""Up to which length a token's rotation depends on its own position alone.

Some rotary embeddings (https://arxiv.org/abs/2402.13753, and dynamic NTK scaling) choose their
frequencies by the longest sequence that is computed beside them. Keys in a cache then keep another
rotation than the trainer gives them, and one long row changes the log-probs of all others.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from transformers import PretrainedConfig

from worker.grpo.errors import InvalidConfig
from worker.grpo.types import Prompt


def constant_length(config: PretrainedConfig) -> float:
    """Return the most tokens of a sequence that leave the frequencies as they are, or infinity."""
    text = config.get_text_config()
    return min((_bound(text, rope) for rope in _ropes(text)), default=math.inf)


def _ropes(config: PretrainedConfig) -> Iterator[dict[str, Any]]:
    """Yield the rotary parameters: one set of the model's, or one of each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in parameters:
        yield parameters
    else:
        yield from (one for one in parameters.values() if isinstance(one, dict))


def _bound(config: PretrainedConfig, rope: dict[str, Any]) -> float:
    kind = rope.get("rope_type") or "default"
    if "dynamic" in kind:
        return int(config.max_position_embeddings)
    return int(rope["original_max_position_embeddings"]) if kind == "longrope" else math.inf


def check_room(config: PretrainedConfig, prompts: Iterable[Prompt], max_tokens: int) -> None:
    """Raise `InvalidConfig` where a completion of `max_tokens` could pass `constant_length`."""
    bound = constant_length(config)
    longest = max((len(prompt.ids) for prompt in prompts), default=0)
    if longest + max_tokens > bound:
        raise InvalidConfig(
            f"A prompt of {longest} tokens with a completion of {max_tokens} is longer than the "
            f"{bound:g} tokens beyond which this model's rotary embedding depends on the sequences "
            f"beside it: {max(0, int(bound) - longest)} tokens of completion would fit."
        )
