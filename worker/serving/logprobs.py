"""Tokens with their log-probs as the wire shows them, given out with the text they make."""

from __future__ import annotations

import re

from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from jobs.serving import TokenLogprob
from worker.serving.text import BROKEN

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_BYTE_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}


class TokenNames:
    """What a model's tokens look like by themselves."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def described(self, token: int, logprob: float, text: str | None = None) -> TokenLogprob:
        """A token; `text` is what it made in its place, where that is known."""
        if text is None:
            text = str(self._tokenizer.decode([token]))
        return TokenLogprob(token=text, logprob=logprob, bytes=self._bytes(token, text))

    def likeliest(self, logprobs_V: Tensor, count: int) -> list[TokenLogprob]:
        """The `count` likeliest tokens, the likeliest first."""
        if not count:
            return []
        values, ids = logprobs_V.topk(min(count, len(logprobs_V)))
        return [
            self.described(token, value)
            for token, value in zip(ids.tolist(), values.tolist(), strict=True)
        ]

    def _bytes(self, token: int, text: str) -> list[int] | None:
        """The token's bytes, also of one that is a part of a character; None if unknown."""
        if BROKEN not in text:
            return list(text.encode())
        raw = str(self._tokenizer.convert_ids_to_tokens(token))
        if match := _BYTE_TOKEN.fullmatch(raw):
            return [int(match[1], 16)]
        found = [_BYTE_OF.get(letter) for letter in raw]
        return [byte for byte in found if byte is not None] if None not in found else None
