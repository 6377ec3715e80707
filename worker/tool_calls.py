"""Calls of tools in a completion, as models write them, to the `tool_calls` that graders read.

    Hermes, Qwen 2.5 and 3     <tool_call>{"name": ..., "arguments": {...}}</tool_call>
    Qwen 3.5, Nemotron         <tool_call><function=NAME><parameter=KEY>VALUE</parameter>...
    Mistral                    [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
    Mistral since 2025         [TOOL_CALLS]NAME[ARGS]{...}, one after the other
    Llama 3                    {"name": ..., "parameters": {...}}, which is then the whole answer

What only looks like a call (broken JSON, no name) stays in the answer: it is a wrong answer, which
a grader must be able to see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jobs import strict_json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION = re.compile(r"\s*<function=(?P<name>[^>\n]+)>(?P<body>.*?)(</function>)?\s*", re.DOTALL)
PARAMETER = re.compile(r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>", re.DOTALL)
MARK = "[TOOL_CALLS]"
NAMED = re.compile(r"\s*(?P<name>[\w.-]+)(\[CALL_ID\][\w-]*)?\[ARGS\]\s*")
WHOLE = re.compile(r"\s*(<\|python_tag\|>)?\s*(?P<body>\{.*\})\s*", re.DOTALL)
SPACE = re.compile(r"\s*")

Call = tuple[str, dict[str, Any]]
Taken = tuple[list[Call], int]
"""The calls that begin at a place of the text, and where they end; none when it is no call."""


def split_calls(
    answer: str, tools: Sequence[dict[str, Any]] = ()
) -> tuple[str, list[dict[str, Any]]]:
    """Return the answer without its calls, and the calls as `tool_calls` of a chat message.

    Where a family writes arguments without types, they have those of the `tools` of the row.
    """
    schemas = _schemas(tools)
    rest, calls = _without_marked(answer, OPEN, lambda text, at: _block(text, at, schemas))
    if not calls:
        rest, calls = _without_marked(answer, MARK, _listed)
    whole = WHOLE.fullmatch(answer)
    if not calls and whole:
        rest, calls = "", _read(whole["body"], schemas)
    return (rest.strip() if calls else answer), [_wire(i, call) for i, call in enumerate(calls)]


def _without_marked(
    text: str, mark: str, take: Callable[[str, int], Taken]
) -> tuple[str, list[Call]]:
    """The text without what `take` takes behind each mark, and what it took."""
    rest, calls, at = "", list[Call](), 0
    while (found := text.find(mark, at)) >= 0:
        taken, end = take(text, found + len(mark))
        rest += text[at:found] if taken else text[at : found + len(mark)]
        at = end if taken else found + len(mark)
        calls += taken
    return rest + text[at:], calls


def _block(text: str, at: int, schemas: Schemas) -> Taken:
    """A block ends behind the JSON in it: a string in there may hold the closing tag."""
    value, end = _json_at(text, at)
    if value is not None and text.startswith(CLOSE, end := _skipped(text, end)):
        return _from_values(value), end + len(CLOSE)
    end = text.find(CLOSE, at)
    return (_read(text[at:end], schemas), end + len(CLOSE)) if end >= 0 else ([], at)


def _listed(text: str, at: int) -> Taken:
    named = NAMED.match(text, at)
    if named:
        arguments, end = _json_at(text, named.end())
        return ([(named["name"], arguments)], end) if isinstance(arguments, dict) else ([], at)
    value, end = _json_at(text, at)
    return (_from_values(value), end) if isinstance(value, list) else ([], at)


def _json_at(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins here, and where it ends; None where there is none to store."""
    start = _skipped(text, at)
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, at
    return _parsed(text[start:end]), end


def _skipped(text: str, at: int) -> int:
    space = SPACE.match(text, at)
    return space.end() if space else at


def _read(body: str, schemas: Schemas) -> list[Call]:
    """The calls that a body says, or none when it is not all calls."""
    function = FUNCTION.fullmatch(body)
    if not function:
        return _from_values(_parsed(body))
    name = function["name"].strip()
    types = schemas.get(name, {})
    arguments = {
        key: _typed(pair["value"], types.get(key))
        for pair in PARAMETER.finditer(function["body"])
        for key in [pair["key"].strip()]
    }
    return [(name, arguments)]


def _from_values(values: Any) -> list[Call]:
    listed = values if isinstance(values, list) else [values]
    calls = [call for value in listed if (call := _from_json(value))]
    return calls if len(calls) == len(listed) else []


Schemas = dict[str, dict[str, Any]]
"""Of each tool, the JSON schema of each parameter."""


def _schemas(tools: Sequence[dict[str, Any]]) -> Schemas:
    functions = [tool.get("function", tool) for tool in tools]
    return {
        str(one.get("name")): (one.get("parameters") or {}).get("properties") or {}
        for one in functions
    }


def _typed(text: str, schema: Any) -> Any:
    """A value as its schema says: what is no string is JSON, and what is no JSON is a string."""
    kind = schema.get("type", "string") if isinstance(schema, dict) else "string"
    kinds = kind if isinstance(kind, list) else [kind]
    if kinds == ["string"]:
        return text
    value = _parsed(text)
    return text if value is None and text.strip() != "null" else value


def _from_json(value: Any) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):  # Some write them as OpenAI's wire does.
        arguments = _parsed(arguments)
    return (value["name"], arguments) if isinstance(arguments, dict) else None


def _parsed(text: str) -> Any:
    """The JSON that a model wrote, or None: what cannot be stored is as broken as what is none."""
    try:
        return strict_json.loads(text.encode())
    except ValueError:
        return None


def _wire(index: int, call: Call) -> dict[str, Any]:
    name, arguments = call
    text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    function = {"name": name, "arguments": text}
    return {"id": f"call_{index}", "type": "function", "function": function}


def without(text: str, special_tokens: Iterable[str]) -> str:
    """The text without the tokens that only the tokenizer means something by.

    Until none is left: one that is taken out may leave another one behind.
    """
    tokens = [token for token in special_tokens if token]
    while (shorter := _once_without(text, tokens)) != text:
        text = shorter
    return text


def _once_without(text: str, tokens: Iterable[str]) -> str:
    for token in tokens:
        text = text.replace(token, "")
    return text
