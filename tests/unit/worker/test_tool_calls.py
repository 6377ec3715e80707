"""Calls in a completion: each family's way of writing them, and what only looks like one."""

import json
from typing import Any

import pytest
from tool_call_texts import CALL, CALLS, NO_CALLS

from worker.tool_calls import split_calls, without

ADD = ("add", {"a": 1, "b": [2, "x"]})


def called(answer: str) -> list[tuple[str, Any]]:
    _, calls = split_calls(answer)
    assert [call["id"] for call in calls] == [f"call_{i}" for i in range(len(calls))]
    assert all(call["type"] == "function" for call in calls)
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


@pytest.mark.parametrize(("answer", "rest"), CALLS)
def test_each_familys_way(answer: str, rest: str) -> None:
    assert called(answer) == [ADD]
    assert split_calls(answer)[0] == rest


def test_qwens_xml_way() -> None:
    answer = (
        "<tool_call>\n<function=find>\n<parameter=city>\nNew York\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
    )
    assert called(answer) == [("find", {"city": "New York", "days": "3"})]


def test_xml_values_have_the_types_of_the_rows_tools() -> None:
    properties = {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "units": {"type": ["string", "null"]},
        "where": {"type": "object"},
    }
    tool = {
        "type": "function",
        "function": {"name": "find", "parameters": {"properties": properties}},
    }
    said = {"city": "12", "days": "3", "units": "null", "where": '{"x": [1]}', "more": "4"}
    pairs = "".join(f"<parameter={key}>\n{value}\n</parameter>" for key, value in said.items())
    answer = f"<tool_call><function=find>{pairs}</function></tool_call>"
    (call,) = split_calls(answer, [tool])[1]
    expected = {"city": "12", "days": 3, "units": None, "where": {"x": [1]}, "more": "4"}
    assert json.loads(call["function"]["arguments"]) == expected


@pytest.mark.parametrize("wrong", ["NaN", "1e999", "three", '{"a": Infinity}'])
def test_an_xml_value_that_is_not_of_its_type_stays_as_it_was_said(wrong: str) -> None:
    tool = {"function": {"name": "f", "parameters": {"properties": {"n": {"type": "number"}}}}}
    answer = f"<tool_call><function=f><parameter=n>{wrong}</parameter></function></tool_call>"
    (call,) = split_calls(answer, [tool])[1]
    assert json.loads(call["function"]["arguments"]) == {"n": wrong}


def test_mistrals_way_since_2025() -> None:
    arguments = '{"a": 1, "b": [2, "x"]}'
    one = f"[TOOL_CALLS]add[ARGS]{arguments}"
    assert called(one) == [ADD]
    assert called(f"Sure.{one}[TOOL_CALLS]add[CALL_ID]x9[ARGS]{arguments}") == [ADD, ADD]
    assert split_calls(f"Sure.{one} That is it]")[0] == "Sure. That is it]"


def test_a_list_ends_where_its_json_ends() -> None:
    assert called(f"[TOOL_CALLS][{CALL}] as in [1]") == [ADD]
    assert split_calls(f"[TOOL_CALLS][{CALL}] as in [1]")[0] == "as in [1]"


def test_a_closing_tag_inside_a_string_is_part_of_it() -> None:
    arguments = {"text": "write </tool_call> at the end"}
    body = json.dumps({"name": "say", "arguments": arguments})
    answer = f"<tool_call>{body}</tool_call> Done."
    assert called(answer) == [("say", arguments)]
    assert split_calls(answer)[0] == "Done."


def test_special_tokens_are_taken_out_until_none_is_left() -> None:
    assert without("a<|e<|end|>nd|>b", ["<|end|>"]) == "ab"
    assert without("<a<b>><b>c", ["<a>", "<b>"]) == "c"


def test_several_calls_keep_their_order() -> None:
    two = CALL.replace("add", "multiply")
    both = f"<tool_call>{CALL}</tool_call><tool_call>{two}</tool_call>"
    assert [name for name, _ in called(both)] == ["add", "multiply"]
    assert [name for name, _ in called(f"[TOOL_CALLS][{CALL}, {two}]")] == ["add", "multiply"]


def test_arguments_are_compact_json_as_openai_writes_them() -> None:
    (call,) = split_calls(
        '<tool_call>{"name": "say", "arguments": {"a": "é", "b": 1}}</tool_call>'
    )[1]
    assert call["function"]["arguments"] == '{"a":"\u00e9","b":1}'


@pytest.mark.parametrize(
    "answer", [*NO_CALLS, "<tool_call>" + "[" * 20_000 + "</tool_call>", "{" * 20_000]
)
def test_what_only_looks_like_a_call_stays_in_the_answer(answer: str) -> None:
    assert split_calls(answer) == (answer, [])
