"""One choice of an answer as it grows: its text, its log-probs, its tool calls, its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from jobs.serving import ContentLogprob, Delta, ToolCall
from worker.prompts import THINK_OPEN, PromptRenderer
from worker.serving.calls import READ_TOKENS, Calls
from worker.serving.logprobs import TokenNames
from worker.serving.text import BROKEN, Detokenizer, Markers, Reasoning


@dataclass
class _Entry:
    """A token's log-prob and the part of the content that it made."""

    shown: ContentLogprob
    start: int = 0
    end: int = 0


@dataclass
class _Logprobs:
    """Log-probs that wait for their text to be given out."""

    top: int
    names: TokenNames
    unplaced: list[_Entry] = field(default_factory=list)
    placed: list[_Entry] = field(default_factory=list)

    def add(self, token: int, logprobs_V: Tensor, text: str) -> None:
        # Where a character took several tokens, the last one's text is that of all of them.
        own_text = None if self.unplaced or BROKEN in text else text or None
        chosen = self.names.described(token, float(logprobs_V[token]), own_text)
        shown = ContentLogprob(
            **chosen.model_dump(), top_logprobs=self.names.likeliest(logprobs_V, self.top)
        )
        self.unplaced.append(_Entry(shown))

    def place(self, start: int, end: int) -> None:
        """The tokens since the last text made the content from `start` to `end`."""
        for entry in self.unplaced:
            entry.start, entry.end = start, end
        self.placed += self.unplaced
        self.unplaced = []

    def take(self, given: int, *, is_over: bool) -> list[ContentLogprob]:
        """Those whose content is out by now; at the end also the one that a stop string cut."""
        out = [one for one in self.placed if (one.start if is_over else one.end - 1) < given]
        self.placed = self.placed[len(out) :]
        return [one.shown for one in out]


class Answer:
    """Ids go in; deltas come out, which put together are exactly the answer."""

    def __init__(
        self,
        renderer: PromptRenderer,
        prompt_ids: Sequence[int],
        *,
        index: int,
        stop: Sequence[str],
        tools: Sequence[dict[str, Any]],
        top_logprobs: int | None,
    ) -> None:
        tokenizer = renderer.tokenizer
        tail = str(tokenizer.decode(list(prompt_ids[-8:])))
        self.index = index
        self.is_stopped = False
        """Whether a stop string has come: what follows it is not part of the answer."""
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self.tool_calls: list[ToolCall] = []
        # Where a call begins may be a special token: it is read first and left out afterwards.
        kept = [one for one in renderer.special_tokens if one in READ_TOKENS] if tools else []
        self._decoded = Detokenizer(tokenizer, kept)
        self._reasoning = Reasoning(is_open=tail.rstrip().endswith(THINK_OPEN))
        self._stops = Markers(stop)
        self._calls = Calls(tools, kept)
        self._made = 0
        self._given = 0
        self._logprobs = (
            None if top_logprobs is None else _Logprobs(top_logprobs, TokenNames(tokenizer))
        )

    def push(self, token: int, logprobs_V: Tensor | None) -> Delta | None:
        """What the token adds; None when nothing of it can be given out yet."""
        self.num_tokens += 1
        was_open = self._reasoning.is_open
        text = self._decoded.push(token)
        reasoning, content = self._reasoning.push(text)
        if was_open or self._reasoning.is_open:
            self.num_reasoning_tokens = self.num_tokens
        if self._logprobs is not None and not self._reasoning.is_open:
            assert logprobs_V is not None
            self._logprobs.add(token, logprobs_V, text)
        return self._delta(reasoning, self._cut(content), is_over=self.is_stopped)

    def end(self) -> Delta | None:
        """The last token has come: what was kept back."""
        if self.is_stopped:
            return self._delta("", self._finish_tools(""), is_over=True)
        reasoning, content = self._reasoning.push(self._decoded.flush())
        more_reasoning, more = self._reasoning.flush()
        content = self._cut(content + more)
        if not self.is_stopped:
            content += self._calls.push(self._stops.flush())
        return self._delta(reasoning + more_reasoning, self._finish_tools(content), is_over=True)

    def _cut(self, content: str) -> str:
        """The content up to a stop string, tool calls taken out of it."""
        if content and self._logprobs is not None:
            self._logprobs.place(self._made, self._made + len(content))
        self._made += len(content)
        content, marker = self._stops.push(content)
        self.is_stopped = marker is not None
        return self._calls.push(content)

    def _finish_tools(self, content: str) -> str:
        """Read the tool calls; text that is none after all is content."""
        rest, self.tool_calls = self._calls.finish()
        return content + rest

    def _delta(self, reasoning: str, content: str, *, is_over: bool) -> Delta | None:
        if not self.tool_calls:  # behind a call no token is told for content
            self._given += len(content)
        logprobs = None
        if self._logprobs is not None:
            logprobs = self._logprobs.take(self._given, is_over=is_over)
        if not (reasoning or content or logprobs):
            return None
        return Delta(index=self.index, content=content, reasoning=reasoning, logprobs=logprobs)
