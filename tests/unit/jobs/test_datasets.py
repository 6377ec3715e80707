"""JSONL to rows: every fault with its line number and a reason to act on."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import datasets
from jobs.datasets import MAX_LINE_BYTES, Row, RowFault, flat_messages, read_rows

USER = {"role": "user", "content": "1 + 1"}
GOOD = {"messages": [USER], "answer": 2}


def rows_of(tmp_path: Path, content: bytes) -> list[Row | RowFault]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return list(read_rows(path))


def line(row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


def test_messages_are_the_prompt_and_all_else_is_the_item(tmp_path: Path) -> None:
    row = {"messages": [{"role": "system", "content": "Be brief."}, USER], "answer": 2, "k": [1]}
    (found,) = rows_of(tmp_path, line({**row, "tools": []}))
    assert found == Row(line=1, messages=row["messages"], item={"answer": 2, "k": [1]})


def test_blank_lines_are_skipped_and_still_counted(tmp_path: Path) -> None:
    content = b"\n" + line(GOOD) + b"  \r\n" + line({}) + line(GOOD).strip()
    found = rows_of(tmp_path, content)
    assert [row.line for row in found] == [2, 4, 5]
    assert isinstance(found[1], RowFault)
    assert str(found[1]).startswith("line 4: no 'messages'")


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
def test_windows_files_are_read(tmp_path: Path, prefix: bytes) -> None:
    content = prefix + line(GOOD).replace(b"\n", b"\r\n") * 2
    assert [type(row) for row in rows_of(tmp_path, content)] == [Row, Row]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert rows_of(tmp_path, b"") == []
    assert rows_of(tmp_path, b"\n \n") == []


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def called(function: Any) -> dict[str, Any]:
    """A row in which the assistant has called a tool and was answered."""
    call = {"id": "c1", "type": "function", "function": function}
    return {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "3", "tool_call_id": "c1"},
        ]
    }


FAULTS: list[tuple[bytes, str]] = [
    (b"not json", "not JSON: Expecting value at column 1; each line must be one JSON object"),
    (b'{"messages": [}', "not JSON"),
    (b'{"a": 1} {"b": 2}', "not JSON: Extra data"),
    (b'{"messages": NaN}', "NaN is not a JSON number"),
    (b'{"messages": 1e999}', "too large"),
    (b'{"messages": "\\udc00"}', "surrogate"),
    (b'{"a": "\xff"}', "not UTF-8 (byte 8)"),
    (b"[" * 100_000, "nested too deeply"),
    (line([GOOD]), "a JSON array, not an object"),
    (line("x"), "a JSON string, not an object"),
    (line(3), "a JSON number, not an object"),
    (line(True), "a JSON boolean, not an object"),
    (line(None), "a JSON null, not an object"),
    (line({"prompt": "x"}), "no 'messages'"),
    (line({"messages": None}), "no 'messages'"),
    (line({"messages": []}), "at least one message"),
    (line({"messages": "1 + 1"}), "must be a list"),
    (line({"messages": ["1 + 1"]}), "messages[0] is not an object"),
    (line({"messages": [{"content": "x"}]}), "messages[0].role is None"),
    (line({"messages": [{"role": "human", "content": "x"}]}), "known roles: system, developer"),
    (line({"messages": [{"role": ["user"], "content": "x"}]}), "messages[0].role is ['user']"),
    (line({"messages": [USER, {"role": "user"}]}), "messages[1].content must be text"),
    (line({"messages": [{"role": "user", "content": 3}]}), "content must be text"),
    (
        line({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        "content must be text",
    ),
    (
        line({"messages": [USER, {"role": "assistant", "content": "2"}]}),
        "the last message is the assistant's",
    ),
    (line({**GOOD, "tools": {"name": "add"}}), "'tools' must be a list"),
    (line({**GOOD, "tools": [{"type": "function"}]}), "tools[0] is not {type: 'function'"),
    (line({**GOOD, "tools": [TOOL, {**TOOL, "type": "mcp"}]}), "tools[1] is not"),
    (line({**GOOD, "tools": [{**TOOL, "function": {}}]}), "tools[0].function has no name"),
    (
        line({**GOOD, "tools": [{**TOOL, "function": {"name": "add", "parameters": []}}]}),
        "tools[0].function.parameters must be a JSON schema",
    ),
    (line(called(None)), "messages[1].tool_calls[0] is not"),
    (line(called({"name": "add", "arguments": "{"})), "arguments is not a JSON object"),
    (line(called({"name": "add", "arguments": "[]"})), "arguments is not a JSON object"),
]


def test_tools_and_earlier_calls_are_read(tmp_path: Path) -> None:
    """OpenAI's wire has arguments as a string and an empty content; templates want an object."""
    data = {**called({"name": "add", "arguments": '{"a": 1}'}), "tools": [TOOL]}
    (row,) = rows_of(tmp_path, line(data))
    assert isinstance(row, Row)
    assert row.tools == [TOOL]
    assert "tools" not in row.item
    _, call, answer = flat_messages(row.messages)
    assert call["content"] == ""
    assert call["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert answer == {"role": "tool", "content": "3", "tool_call_id": "c1"}


@pytest.mark.parametrize(("content", "reason"), FAULTS)
def test_a_fault_is_told_with_its_line_and_reading_goes_on(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    found = rows_of(tmp_path, line(GOOD) + content.strip() + b"\n" + line(GOOD))
    assert [type(row) for row in found] == [Row, RowFault, Row]
    fault = found[1]
    assert isinstance(fault, RowFault)
    assert fault.line == 2
    assert reason in fault.reason
    assert len(fault.reason) < 300


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\x00", '{"a": 1}\n'.encode("utf-16")])
def test_a_binary_file_is_one_fault(tmp_path: Path, content: bytes) -> None:
    (fault,) = rows_of(tmp_path, content * 20)
    assert isinstance(fault, RowFault)
    assert str(fault).startswith("line 1: the file is not text")


def test_a_zero_byte_far_into_a_file_ends_the_reading(tmp_path: Path) -> None:
    good = line(GOOD) * (10_000 // len(line(GOOD)) + 1)
    found = rows_of(tmp_path, good + b"\0\n" + good)
    assert [type(row) for row in found[-2:]] == [Row, RowFault]
    assert "not text" in str(found[-1])


def test_a_line_too_long_is_not_read_into_memory_whole(tmp_path: Path) -> None:
    content = line(GOOD) + b"x" * (3 * MAX_LINE_BYTES) + b"\n" + line(GOOD)
    found = rows_of(tmp_path, content)
    assert [row.line for row in found] == [1, 2, 3]
    assert found[1] == RowFault(2, "longer than 4 MiB")
    assert isinstance(found[2], Row)


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    padding = MAX_LINE_BYTES - len(line({**GOOD, "pad": ""}))
    exact = line({**GOOD, "pad": "x" * padding})
    assert len(exact) == MAX_LINE_BYTES
    assert [type(row) for row in rows_of(tmp_path, exact + line(GOOD))] == [Row, Row]


def test_too_many_rows_end_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_ROWS", 3)
    found = rows_of(tmp_path, line(GOOD) * 9)
    assert [type(row) for row in found] == [Row, Row, Row, RowFault]
    assert str(found[3]) == "line 4: the file has more than 3 rows"


def test_messages_as_chat_templates_expect_them() -> None:
    parts = [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "ann"},
    ]
    assert flat_messages(messages) == [{"role": "system", "content": "Be brief."}, USER]
