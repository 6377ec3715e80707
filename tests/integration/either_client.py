"""Calls that are the same for the `openai` package's client and for its async one."""

from inspect import isawaitable
from typing import Any


async def awaited(value: Any) -> Any:
    """What either client answers a call with."""
    return await value if isawaitable(value) else value


async def walked(page: Any) -> list[Any]:
    """Every item of a paged list, as either client walks it."""
    if hasattr(page, "__aiter__"):
        return [item async for item in page]
    return list(page)


async def chat(client: Any) -> None:
    """Two answers with log-probs, whole and streamed, are the same."""
    completions = client.chat.completions
    asked = {
        "model": "honed/starter",
        "messages": [{"role": "user", "content": "What is 2 + 3?"}],
        "temperature": 0,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
    }
    answer = await awaited(completions.create(**asked))
    texts = [choice.message.content for choice in answer.choices]
    assert texts[0] == texts[1] != ""
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = await walked(await awaited(completions.create(**asked, **options)))
    assert chunks[-1].usage == answer.usage
    told = [choice for chunk in chunks for choice in chunk.choices if choice.index == 1]
    assert "".join(choice.delta.content or "" for choice in told) == texts[1]
