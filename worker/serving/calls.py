"""Calls of tools in an answer that comes in pieces, read as training reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.serving import ToolCall
from worker.prompts import THINK_CLOSE, THINK_OPEN
from worker.serving.text import Markers
from worker.tool_calls import CLOSE, MARK, OPEN, split_calls, without

PYTHON_TAG = "<|python_tag|>"

# Read as text even where a tokenizer has them as special tokens.
READ_TOKENS = (OPEN, CLOSE, MARK, "[ARGS]", "[CALL_ID]", PYTHON_TAG, THINK_OPEN, THINK_CLOSE)


class Calls:
    """Gives out the text before a call at once, and keeps back what a call may begin with.

    All that was given out, put together, is what `split_calls` leaves of the whole answer, but for
    blanks at its beginning.
    """

    def __init__(self, tools: Sequence[dict[str, Any]], special_tokens: Sequence[str]) -> None:
        """Without tools nothing is kept back, and nothing is a call."""
        self._tools = tools
        self._special_tokens = special_tokens
        self._markers = Markers([OPEN, MARK, PYTHON_TAG] if tools else [])
        self._before = ""
        # Blanks before a call are no part of the answer.
        self._blank = ""
        self._held: str | None = None

    def push(self, text: str) -> str:
        """The text that is certainly none of a call."""
        if self._held is not None:
            self._held += text
            return ""
        text, marker = self._markers.push(text)
        if not self._tools:
            return text
        if marker is not None:
            self._held = marker + self._markers.flush()
        text = self._blank + text
        if not self._before and text.lstrip().startswith("{"):
            # Llama's call is the whole answer, so only its end tells.
            self._blank = ""
            self._held = text + (self._markers.flush() if self._held is None else self._held)
            return ""
        given = text.rstrip()
        self._blank = text[len(given) :]
        self._before += given
        return without(given, self._special_tokens)

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The rest of the text, and the calls; what only looked like one is text."""
        held = self._markers.flush() if self._held is None else self._held
        tail, calls = self._blank + held, list[dict[str, Any]]()
        if self._held is not None:
            rest, calls = split_calls(self._before + tail, self._tools)
            tail = rest[len(self._before.lstrip()) :] if calls else tail
        found = [ToolCall(**call["function"]) for call in calls]
        return without(tail, self._special_tokens), found
