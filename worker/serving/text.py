"""A choice's text while its tokens come: decoded, reasoning set apart, cut at stop strings.

Each part keeps back what it cannot decide on yet: half a character, half a marker. What is given
out is final.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from worker.prompts import THINK_CLOSE, THINK_OPEN

BROKEN = "\N{REPLACEMENT CHARACTER}"  # What half a character decodes to.


class Detokenizer:
    """Ids in, text out, so that all of it together is the text of all ids decoded at once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kept: Sequence[str] = ()) -> None:
        """Special tokens have no text, but for those whose text is in `kept`."""
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._kept = frozenset(one for one, token in added.items() if token.content in kept)
        special = {number for number, token in added.items() if token.special}
        self._silent = frozenset({*special, *tokenizer.all_special_ids}) - self._kept
        self._ids: list[int] = []
        # A token's text depends on the tokens before it: some are decoded again with each new one.
        self._context = 0
        self._given = 0

    def push(self, token: int) -> str:
        """The text that the token made certain."""
        self._ids.append(token)
        text = self._fresh()
        if not text or text.endswith(BROKEN):
            return ""
        self._context, self._given = self._given, len(self._ids)
        return text

    def flush(self) -> str:
        """What is left when no more tokens come, broken characters included."""
        return self._fresh()

    def _fresh(self) -> str:
        given = self._decode(self._ids[self._context : self._given])
        return self._decode(self._ids[self._context :])[len(given) :]

    def _decode(self, ids: list[int]) -> str:
        if not self._kept:
            return str(self._tokenizer.decode(ids, skip_special_tokens=True))
        return str(self._tokenizer.decode([one for one in ids if one not in self._silent]))


class Markers:
    """Looks in text that comes in pieces for the first of some strings."""

    def __init__(self, markers: Sequence[str]) -> None:
        self._markers = markers
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text before the first marker, and the marker where there is one.

        What follows a marker is kept for `flush`. Without one, the end that a marker may begin
        with is kept back.
        """
        text = self._held + text
        # The first to be complete, so that the pieces that text comes in decide nothing.
        found = [
            (at + len(marker), at, marker)
            for marker in self._markers
            if (at := text.find(marker)) >= 0
        ]
        if found:
            _, at, marker = min(found)
            self._held = text[at + len(marker) :]
            return text[:at], marker
        kept = self._may_begin(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept], None

    def flush(self) -> str:
        """What was kept back."""
        held, self._held = self._held, ""
        return held

    def _may_begin(self, text: str) -> int:
        """The length of the longest end of the text that some marker begins with."""
        longest = max((len(marker) for marker in self._markers), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[-length:]
            if any(marker.startswith(end) for marker in self._markers):
                return length
        return 0


class Reasoning:
    """Sets what a model thinks apart from what it answers, as `PromptRenderer.completion` does."""

    def __init__(self, *, is_open: bool) -> None:
        """`is_open` when the template has already opened the model's reasoning."""
        self.is_open = is_open
        self._is_decided = is_open
        self._start = ""
        self._close = Markers([THINK_CLOSE])
        self._blank = ""
        self._has_answer = False
        self._has_thought = False

    def push(self, text: str) -> tuple[str, str]:
        """The reasoning and the answer in the text that came."""
        if not self._is_decided:
            self._start += text
            start = self._start.lstrip()
            if not start or (len(start) < len(THINK_OPEN) and THINK_OPEN.startswith(start)):
                return "", ""
            self._is_decided = True
            self.is_open = start.startswith(THINK_OPEN)
            text = start.removeprefix(THINK_OPEN) if self.is_open else self._start
            self._has_answer = not self.is_open
        if not self.is_open:
            return "", self._answer(text)
        thought, marker = self._close.push(text)
        thought = self._stripped(thought)
        if marker is None:
            return thought, ""
        self.is_open = False
        return thought, self._answer(self._close.flush())

    def flush(self) -> tuple[str, str]:
        """What is left when no more text comes."""
        if not self._is_decided:
            return "", self._start
        return (self._stripped(self._close.flush()), "") if self.is_open else ("", "")

    def _answer(self, text: str) -> str:
        if not self._has_answer:
            text = text.lstrip()
            self._has_answer = bool(text)
        return text

    def _stripped(self, thought: str) -> str:
        """Without the blanks around all of it: those at its end wait for what follows them."""
        thought = self._blank + thought
        if not self._has_thought:
            thought = thought.lstrip()
        solid = thought.rstrip()
        self._blank = thought[len(solid) :]
        self._has_thought = self._has_thought or bool(solid)
        return solid
