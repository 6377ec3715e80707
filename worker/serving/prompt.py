"""From a chat task to the ids that its model reads, by what its chat template knows."""

from __future__ import annotations

from typing import Any

from jobs import thinking
from jobs.errors import BadRequest
from jobs.serving import ChatTask
from worker.prompts import PromptRenderer


def prompt_ids(renderer: PromptRenderer, task: ChatTask) -> list[int]:
    """[L] ids up to where the answer begins. Raises BadRequest for what the template has not."""
    template = str(renderer.tokenizer.get_chat_template())
    options: dict[str, Any] = {}
    if task.tools:
        options["tools"] = task.tools
    if task.reasoning_effort is not None:
        try:
            options |= thinking.arguments(template, task.reasoning_effort)
        except ValueError as error:
            raise BadRequest(f"{error}.", param="reasoning_effort") from None
    ids = _rendered(renderer, task, options)
    if task.tools and ids == _rendered(renderer, task, options | {"tools": None}):
        raise BadRequest(
            f"The model '{task.model.name}' cannot call tools: its chat template has no place "
            "for them. Leave 'tools' out.",
            param="tools",
        )
    return ids


def _rendered(renderer: PromptRenderer, task: ChatTask, options: dict[str, Any]) -> list[int]:
    try:
        ids = renderer.tokenizer.apply_chat_template(
            task.messages, add_generation_prompt=True, return_dict=False, **options
        )
    except Exception as error:  # a template is a program of its own and raises what it likes
        raise BadRequest(
            f"The model's chat template refused the messages: {error}", param="messages"
        ) from error
    return list(ids)


def max_tokens(renderer: PromptRenderer, num_prompt_tokens: int, asked: int | None) -> int:
    """Tokens that an answer may have. Raises BadRequest when the context has no room for them."""
    room = renderer.context_length - num_prompt_tokens
    if room < 1 or (asked is not None and asked > room):
        wanted = f", and {asked} were asked for the answer" if asked is not None else ""
        raise BadRequest(
            f"This model's context is {renderer.context_length} tokens{renderer.context_note}; the "
            f"messages are {num_prompt_tokens} of them{wanted}. Shorten the messages or ask "
            "for fewer tokens.",
            param="messages",
            code="context_length_exceeded",
        )
    return room if asked is None else asked
