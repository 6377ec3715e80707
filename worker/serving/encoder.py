"""Sentence encoders: a vector for a text, as sentence-transformers makes it."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from worker.serving.loaded import Loaded

BATCH_TEXTS = 32

# How a sentence-transformers model says it makes one vector of many; the mean unless it says.
MODE = "pooling_mode_"
MEAN, FIRST = f"{MODE}mean_tokens", f"{MODE}cls_token"


class Encoder(Loaded):
    """A transformer whose token states are pooled to one vector of length 1."""

    architecture = AutoModel
    unused = ("pooler.",)  # BERT's own, which was trained for another task

    def __init__(self, folder: Path) -> None:
        """Raises ValueError for a pooling that is neither the mean nor the first token's state."""
        super().__init__(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        pooling = _read(folder / "1_Pooling" / "config.json")
        modes = {key for key, is_on in pooling.items() if key.startswith(MODE) and is_on is True}
        if len(modes) > 1 or modes - {MEAN, FIRST}:
            raise ValueError(f"this encoder's pooling is not known here: {', '.join(modes)}")
        self._takes_first = FIRST in modes
        longest = getattr(self.base.config, "max_position_embeddings", 512)
        sizes = _read(folder / "sentence_bert_config.json")
        self._max_tokens = sizes.get("max_seq_length", longest)
        self._one_at_a_time = threading.Lock()

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each; a text is read up to the encoder's own limit, as it was trained."""
        vectors: list[list[float]] = []
        with self._one_at_a_time, torch.inference_mode():
            for start in range(0, len(texts), BATCH_TEXTS):
                vectors += self._embed(texts[start : start + BATCH_TEXTS])
        return vectors

    def _embed(self, texts: Sequence[str]) -> list[list[float]]:
        read = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self.device)
        states_BLH = self.base(**read).last_hidden_state.float()
        mask_BL1 = read["attention_mask"][:, :, None]
        pooled_BH = (
            states_BLH[:, 0]
            if self._takes_first
            else (states_BLH * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1)
        )
        vectors: list[list[float]] = torch.nn.functional.normalize(pooled_BH, dim=-1).tolist()
        return vectors


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}
