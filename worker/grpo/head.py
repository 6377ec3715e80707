"""What a model does to its head's output before it calls it logits, by the names configs use."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.grpo.errors import UnsupportedModel


def logits_head(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Return the function from the decoder's last hidden states to the model's own logits."""
    config = model.config.get_text_config()
    scale = _logit_scale(config)
    softcap = getattr(config, "final_logit_softcapping", None)

    def head(hidden: Tensor) -> Tensor:
        logits = model.get_output_embeddings()(hidden)
        if scale != 1.0:
            logits = logits * scale
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return logits

    return head


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
    if not torch.allclose(found, expected, rtol=1e-2, atol=1e-3):
        raise UnsupportedModel(
            f"{type(model).__name__} changes its logits in a way this engine does not know: "
            "training it would optimise the wrong probabilities."
        )
