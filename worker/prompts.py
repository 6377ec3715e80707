"""Rows to token ids and completions back to text, by the model's own tokenizer and template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from jobs.datasets import flat_messages
from jobs.errors import JobFailure
from jobs.status import Reason

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Completion:
    """A completion as graders see it: the answer apart from the reasoning before it."""

    output_text: str
    reasoning_text: str | None
    is_complete: bool
    """False when the reasoning never closed, or the token limit cut it."""


class PromptRenderer:
    """The tokenizer and chat template of one base model."""

    def __init__(self, folder: Path) -> None:
        """Raises JobFailure when the folder's tokenizer cannot be used."""
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            self.context_length = _context_length(folder)
        except (OSError, ValueError, KeyError) as error:
            raise _unusable(f"The model's tokenizer cannot be loaded: {error}") from error
        if not self.tokenizer.chat_template:
            raise _unusable(
                "The model's tokenizer has no chat template, so messages cannot be put before it: "
                "use the instruct version of the model, or add chat_template.jinja to its folder."
            )

    def ids(self, messages: list[dict[str, Any]]) -> list[int]:
        """[L] token ids of the messages up to where the assistant begins to answer.

        Raises ValueError with the template's own words when it refuses the messages.
        """
        try:
            ids = self.tokenizer.apply_chat_template(
                flat_messages(messages), add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # a template is a program of its own and raises what it likes
            raise ValueError(f"the model's chat template refused it: {error}") from error
        return list(ids)

    def completion(self, prompt_ids: list[int], ids: list[int], *, is_cut: bool) -> Completion:
        """The text of a completion, special tokens left out, reasoning set apart."""
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        tail = str(self.tokenizer.decode(prompt_ids[-8:]))
        is_thinking = tail.rstrip().endswith(THINK_OPEN) or text.lstrip().startswith(THINK_OPEN)
        if not is_thinking:
            return Completion(text, None, not is_cut)
        reasoning, closed, answer = text.partition(THINK_CLOSE)
        reasoning = reasoning.replace(THINK_OPEN, "", 1).strip()
        return Completion(answer.lstrip(), reasoning, bool(closed) and not is_cut)


def _context_length(folder: Path) -> int:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    length = length or getattr(config, "n_positions", None)
    if not length:
        raise ValueError("its configuration names no context length")
    return int(length)


def _unusable(sentence: str) -> JobFailure:
    return JobFailure(Reason.MODEL_NOT_AVAILABLE, sentence, param="model")
