"""Prompts of chat: whether a model's template has a place for tools is seen by using it."""

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import BadRequest
from jobs.registry import STARTER, STARTER_FOLDER
from jobs.serving import ChatTask, Served
from worker.prompts import PromptRenderer
from worker.serving.prompt import prompt_ids

ASKED = {"role": "user", "content": "2 + 3?"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "add"}}

# As Mistral's and Llama's put them: without the tag that Qwen's calls have.
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}[INST]{{ m['content'] }}[/INST]{% endfor %}"
)
# It names tools, and shows them to nobody.
BLIND = "{% if tools and not messages %}<tool_call>{% endif %}{{ messages[0]['content'] }}"


SERVED = Served(name=STARTER, base={"name": STARTER})


def task(**more: Any) -> ChatTask:
    return ChatTask(model=SERVED, messages=[ASKED], **more)


def renderer(template: str) -> PromptRenderer:
    made = PromptRenderer(Path(STARTER_FOLDER))
    made.tokenizer.chat_template = template
    return made


def test_any_template_that_shows_tools_takes_them() -> None:
    mistral = renderer(MISTRAL)
    text = mistral.tokenizer.decode(prompt_ids(mistral, task(tools=[TOOL])))
    assert text.startswith("[AVAILABLE_TOOLS]")
    assert '"name": "add"' in text


def test_one_that_shows_none_is_refused() -> None:
    with pytest.raises(BadRequest, match="cannot call tools") as refused:
        prompt_ids(renderer(BLIND), task(tools=[TOOL]))
    assert refused.value.param == "tools"
    assert prompt_ids(renderer(BLIND), task())
