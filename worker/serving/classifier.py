"""Sequence classifiers with one output: reward models."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding

from worker.serving.loaded import Loaded

Conversation = Sequence[Mapping[str, str]]


class Classifier(Loaded):
    """A reward model: one number a conversation."""

    architecture = AutoModelForSequenceClassification

    def __init__(self, folder: Path) -> None:
        """Raises ValueError when the model has more than one output, or no sound weights."""
        super().__init__(folder)
        if self.base.config.num_labels != 1:
            raise ValueError(
                f"a reward model has one output, and this classifier has "
                f"{self.base.config.num_labels}"
            )
        self._tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._one_at_a_time = threading.Lock()

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        """The raw output for each. Raises ValueError when one is longer than the model reads.

        One after another: a number must not depend on what it is padded with.
        """
        with self._one_at_a_time, torch.inference_mode():
            return [float(self.base(**self._read(one)).logits[0, 0]) for one in conversations]

    def _read(self, conversation: Conversation) -> BatchEncoding:
        """By the chat template; without one two messages are a pair of texts, as BERT reads it."""
        if self._tokenizer.chat_template:
            read = self._tokenizer.apply_chat_template(
                [dict(message) for message in conversation], return_tensors="pt", return_dict=True
            )
        else:
            texts = [message["content"] for message in conversation]
            pair = texts if len(texts) == 2 else ["\n\n".join(texts)]
            read = self._tokenizer(*pair, return_tensors="pt")
        read = cast(BatchEncoding, read)
        longest = getattr(self.base.config, "max_position_embeddings", None)
        length = cast(torch.Tensor, read["input_ids"]).shape[1]
        if longest is not None and length > longest:
            raise ValueError(f"the conversation is {length} tokens, and the model reads {longest}")
        return read.to(self.device)
