"""JSONL to rows, with the line number and the reason in every error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as _short
from typing import Any

from jobs import strict_json

MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_ROWS = 50_000
# What a picture, an archive or UTF-16 shows of itself at once.
SNIFF_BYTES = 8192
NOT_TEXT = "the file is not text: it holds zero bytes; send JSONL in UTF-8"
ROLES = ("system", "developer", "user", "assistant", "tool")
RESERVED = frozenset({"messages", "tools"})


@dataclass(frozen=True)
class Row:
    """One line: the messages to answer, and everything else as the grader's `item`."""

    line: int
    messages: list[dict[str, Any]]
    item: dict[str, Any]
    tools: list[dict[str, Any]] = field(default_factory=list)
    """What the model may call, as the chat template shows it: OpenAI's function tools."""

    @property
    def graded(self) -> dict[str, Any]:
        """What graders read as `item`: the row's own fields, and the prompt's messages."""
        return {**self.item, "messages": self.messages}


@dataclass(frozen=True)
class RowFault:
    """Why a line cannot be used."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def read_rows(path: Path) -> Iterator[Row | RowFault]:
    """Each non-blank line as a Row, or as the RowFault that says what is wrong with it.

    A file that is no text at all yields one fault and ends.
    """
    num_rows = 0
    with path.open("rb") as file:
        if b"\0" in file.read(SNIFF_BYTES):
            yield RowFault(1, NOT_TEXT)
            return
        file.seek(0)
        for line, raw in enumerate(_lines(file), start=1):
            if not raw.strip():
                continue
            num_rows += 1
            if num_rows > MAX_ROWS:
                yield RowFault(line, f"the file has more than {MAX_ROWS:,} rows")
                return
            if b"\0" in raw:
                yield RowFault(line, NOT_TEXT)
                return
            yield parse_row(line, raw)


def _lines(file: Any) -> Iterator[bytes]:
    """Lines of bounded length: a file without a newline must not be read into memory whole."""
    while chunk := file.readline(MAX_LINE_BYTES + 1):
        yield chunk
        while len(chunk) > MAX_LINE_BYTES and not chunk.endswith(b"\n"):
            chunk = file.readline(MAX_LINE_BYTES + 1)


def parse_row(line: int, raw: bytes) -> Row | RowFault:
    """One line of JSONL."""
    if len(raw) > MAX_LINE_BYTES:
        return RowFault(line, f"longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        data = strict_json.loads(raw)
    except ValueError as error:
        return RowFault(line, f"not JSON: {error}; each line must be one JSON object")
    if not isinstance(data, dict):
        return RowFault(line, f"a JSON {_kind(data)}, not an object")
    tools = data.get("tools") or []
    fault = _messages_fault(data.get("messages")) or _tools_fault(tools)
    if fault:
        return RowFault(line, fault)
    item = {key: value for key, value in data.items() if key not in RESERVED}
    return Row(line=line, messages=data["messages"], item=item, tools=tools)


def _kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(
        type(value), "number"
    )


def _messages_fault(messages: object) -> str | None:
    if messages is None:
        return "no 'messages': the prompt is a list of {role, content} under that key"
    if not isinstance(messages, list) or not messages:
        return "'messages' must be a list with at least one message"
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            return f"messages[{index}] is not an object with role and content"
        role = message.get("role")
        if role not in ROLES:
            return f"messages[{index}].role is {_short(role)}; known roles: {', '.join(ROLES)}"
        fault = _calls_fault(message.get("tool_calls"))
        if fault:
            return f"messages[{index}].tool_calls{fault}"
        is_call = role == "assistant" and bool(message.get("tool_calls"))
        if not _is_text(message.get("content")) and not (is_call and not message.get("content")):
            return f"messages[{index}].content must be text"
    if messages[-1]["role"] == "assistant":
        return "the last message is the assistant's; it must be what the model is to answer"
    return None


def _tools_fault(tools: object) -> str | None:
    if not isinstance(tools, list):
        return "'tools' must be a list of {type: 'function', function: {name, parameters}}"
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            return f"tools[{index}] is not {{type: 'function', function: {{name, parameters}}}}"
        if not isinstance(function.get("name"), str) or not function["name"]:
            return f"tools[{index}].function has no name"
        if not isinstance(function.get("parameters", {}), dict):
            return f"tools[{index}].function.parameters must be a JSON schema"
    return None


def _calls_fault(calls: object) -> str | None:
    if calls is None:
        return None
    if not isinstance(calls, list):
        return " must be a list"
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return f"[{index}] is not {{type: 'function', function: {{name, arguments}}}}"
        if not isinstance(_arguments(function), dict):
            return f"[{index}].function.arguments is not a JSON object"
    return None


def _arguments(function: dict[str, Any]) -> Any:
    """A call's arguments as an object: OpenAI's wire has them as a string of JSON."""
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        return arguments
    try:
        return strict_json.loads(arguments.encode())
    except ValueError:
        return None


def _is_text(content: object) -> bool:
    if isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    )


def flat_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: text joined, calls as objects, one system role."""
    flat = []
    for message in messages:
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(part["text"] for part in content)
        role = "system" if message["role"] == "developer" else message["role"]
        one: dict[str, Any] = {"role": role, "content": content}
        if message.get("tool_calls"):
            one["tool_calls"] = [_flat_call(call) for call in message["tool_calls"]]
        if role == "tool":
            one |= {key: message[key] for key in ("name", "tool_call_id") if message.get(key)}
        flat.append(one)
    return flat


def _flat_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _arguments(function)}}
