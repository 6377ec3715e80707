"""Rows to token ids and completions back to text, by the model's own tokenizer and template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from jobs import thinking
from jobs.datasets import flat_messages
from jobs.errors import JobFailure
from jobs.response_format import ResponseFormat
from jobs.spec import JobSpec
from jobs.status import Reason
from jobs.thinking import Effort
from worker.grpo.rotation import constant_length
from worker.tool_calls import split_calls, without

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Completion:
    """A completion as graders see it: the answer apart from the reasoning before it."""

    output_text: str
    reasoning_text: str | None
    is_complete: bool
    """False when the reasoning never closed, or the token limit cut it."""
    num_reasoning_tokens: int = 0
    output_json: Any = None
    """The answer parsed, where the job asks for JSON and got it."""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """The calls in it, when its prompt offered tools; they are then not in `output_text`."""


class PromptRenderer:
    """The tokenizer and chat template of one base model, as a job uses them."""

    def __init__(
        self,
        folder: Path,
        *,
        response_format: ResponseFormat | None = None,
        reasoning_effort: Effort = "default",
    ) -> None:
        """Raises JobFailure when the tokenizer cannot be used, or cannot do what is asked."""
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            self.context_length, self.context_note = _context(folder)
        except (OSError, ValueError, KeyError) as error:
            raise _unusable(f"The model's tokenizer cannot be loaded: {error}") from error
        if not self.tokenizer.chat_template:
            raise _unusable(
                "The model's tokenizer has no chat template, so messages cannot be put before it: "
                "use the instruct version of the model, or add chat_template.jinja to its folder."
            )
        self.response_format = response_format or ResponseFormat(type="text")
        try:
            template = self.tokenizer.get_chat_template()
            self.arguments: dict[str, Any] = thinking.arguments(template, reasoning_effort)
        except ValueError as error:
            raise JobFailure(
                Reason.INVALID_HYPERPARAMETERS,
                f"{error}.",
                param="method.reinforcement.hyperparameters.reasoning_effort",
            ) from error

    @property
    def eos_ids(self) -> list[int]:
        """What ends a turn by the tokenizer's word, which a base model's own config may not say."""
        eos_id = self.tokenizer.eos_token_id
        return [] if eos_id is None else [int(eos_id)]

    def ids(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> list[int]:
        """[L] token ids of the messages up to where the assistant begins to answer.

        Raises ValueError with the template's own words when it refuses the messages, and when it
        has no place for tools: the model would never see them.
        """
        ids = self._rendered(messages, tools)
        if tools and ids == self._rendered(messages, None):
            raise ValueError(
                "the model's chat template has no place for 'tools'; remove them, or use a model "
                "that was taught to call them"
            )
        return ids

    def _rendered(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
    ) -> list[int]:
        try:
            ids = self.tokenizer.apply_chat_template(
                self.response_format.told(flat_messages(messages)),
                tools=cast(Any, tools) or None,
                add_generation_prompt=True,
                return_dict=False,
                **self.arguments,
            )
        except Exception as error:  # a template is a program of its own and raises what it likes
            raise ValueError(f"the model's chat template refused it: {error}") from error
        return list(ids)

    def completion(
        self,
        prompt_ids: list[int],
        ids: list[int],
        *,
        is_cut: bool,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> Completion:
        """The text of a completion, special tokens left out, reasoning and calls set apart."""
        # Where a call begins may be a special token: it is read first and left out afterwards.
        text = str(self.tokenizer.decode(ids, skip_special_tokens=not tools))
        tail = str(self.tokenizer.decode(prompt_ids[-8:]))
        is_thinking = tail.rstrip().endswith(THINK_OPEN) or text.lstrip().startswith(THINK_OPEN)
        reasoning, closed, num_reasoning_tokens = None, THINK_CLOSE, 0
        if is_thinking:
            reasoning, closed, text = text.partition(THINK_CLOSE)
            reasoning, text = reasoning.replace(THINK_OPEN, "", 1).strip(), text.lstrip()
            num_answer_tokens = len(self.tokenizer.encode(text, add_special_tokens=False))
            num_reasoning_tokens = max(0, len(ids) - num_answer_tokens)
        calls: list[dict[str, Any]] = []
        if tools:
            text, calls = split_calls(self._plain_end(text), tools)
            text = without(text, self.special_tokens)
        return Completion(
            output_text=text,
            reasoning_text=reasoning,
            is_complete=bool(closed) and not is_cut,
            num_reasoning_tokens=num_reasoning_tokens,
            output_json=self.response_format.parsed(text),
            tool_calls=calls,
        )

    def _plain_end(self, text: str) -> str:
        """The text without the special tokens that end it."""
        while ending := next((one for one in self.special_tokens if text.endswith(one)), ""):
            text = text.removesuffix(ending)
        return text

    @property
    def special_tokens(self) -> list[str]:
        """All that decoding leaves out: those with a role of their own, and the others."""
        added = self.tokenizer.added_tokens_decoder.values()
        others = [token.content for token in added if token.special]
        named = self.tokenizer.all_special_tokens
        return [token for token in dict.fromkeys([*named, *others]) if token]


def renderer_of(spec: JobSpec, folder: Path) -> PromptRenderer:
    """How this job's rows are put before the model. Raises JobFailure."""
    asked = spec.method.reinforcement
    return PromptRenderer(
        folder,
        response_format=asked.response_format,
        reasoning_effort=asked.hyperparameters.reasoning_effort,
    )


def _context(folder: Path) -> tuple[int, str]:
    """Return how many tokens the model may be given, and why not its whole context."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    length = length or getattr(config, "n_positions", None)
    if not length:
        raise ValueError("its configuration names no context length")
    bound = constant_length(config)
    if bound >= length:
        return int(length), ""
    return int(bound), " (beyond it the model's rotary embedding changes with the length)"


def _unusable(sentence: str) -> JobFailure:
    return JobFailure(Reason.MODEL_NOT_AVAILABLE, sentence, param="model")
