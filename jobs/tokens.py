"""Tokens of a text by a model's own tokenizer, without loading anything else of the model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer


def count(folder: Path, text: str) -> int:
    """Tokens of a completion with this text, the one that ends it included.

    Raises FileNotFoundError where the folder holds no `tokenizer.json`.
    """
    return len(_tokenizer(folder / "tokenizer.json").encode(text, add_special_tokens=False)) + 1


@lru_cache(maxsize=8)
def _tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise FileNotFoundError(path)
    return Tokenizer.from_file(str(path))
