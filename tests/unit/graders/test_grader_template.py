"""Templates put in what they name, once, and say what is missing."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.template import Template, TemplateInvalid

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
SAMPLE = Sample(
    output_text="hello",
    finish_reason="length",
    output_json={"name": "Ana", "tags": ["x"], "none": None},
    output_tools=[CALL],
    reasoning_text="hm",
)
ITEM: dict[str, Any] = {
    "s": "text",
    "one": 1,
    "float": 1.0,
    "yes": True,
    "null": None,
    "list": [1, {"k": "v"}, "\u00e9"],
    "deep": {"er": {"0": "zero"}},
    "a key": "spaced",
    "kebab-key": "k",
    "braces": "{{item.s}}",
    "\u00fcber": "u",
}


def render(source: str) -> str:
    return Template(source).render(SAMPLE, ITEM)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ""),
        ("plain } text }}", "plain } text }}"),
        ("{{item.s}}", "text"),
        ("{{ item.s }}", "text"),
        ("<{{item.s}}|{{\titem.one\n}}>", "<text|1>"),
        ("{{item.s}}{{item.s}}", "texttext"),
        ("{{item.float}} {{item.yes}} {{item.null}}", "1.0 true null"),
        ("{{item.list}}", '[1,{"k":"v"},"\u00e9"]'),
        ("{{item.list[0]}} {{item.list[1].k}} {{item.list[-1]}}", "1 v \u00e9"),
        ("{{item.deep.er.0}}", "zero"),
        ("{{item['a key']}} {{item[\"a key\"]}}", "spaced spaced"),
        ("{{item.kebab-key}} {{item.\u00fcber}}", "k u"),
        ("{{item.braces}}", "{{item.s}}"),
        ("\\boxed{{{item.one}}}", "\\boxed{1}"),
        ("{{sample.output_text}}", "hello"),
        ("{{sample.reasoning_text}}", "hm"),
        ("{{sample.output_json.name}} {{sample.output_json.tags[0]}}", "Ana x"),
        ("{{sample.output_json.none}}", "null"),
        ("{{sample.output_tools[0].function.name}}", "add"),
        ("{{sample.output_tools[0].function.arguments}}", '{"a":1}'),
        ("{{sample.choices[0].message.content}}", "hello"),
        ("{{sample.choices[0].message.tool_calls[0].id}}", "c1"),
        ("{{sample.choices[0].finish_reason}}", "length"),
    ],
)
def test_render(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{item.missing}}",
        "{{item.s.inside}}",
        "{{item.s[0]}}",
        "{{item.list[3]}}",
        "{{item.list[-4]}}",
        "{{item.list.0}}",
        "{{item.deep[0]}}",
        "{{sample.output_json.missing}}",
        "{{sample.output_tools[1]}}",
    ],
)
def test_what_is_missing_is_an_invalid_variable(source: str) -> None:
    with pytest.raises(GradeFailure) as failure:
        render(source)
    assert failure.value.flag == "invalid_variable_error"
    assert source.strip("{}") in failure.value.detail


def test_sample_without_json_reasoning_or_tools() -> None:
    bare = Sample("not json")
    flags = {}
    for name in ("output_json.a", "reasoning_text", "output_tools[0]"):
        with pytest.raises(GradeFailure) as failure:
            Template(f"{{{{sample.{name}}}}}").render(bare, {})
        flags[name] = failure.value.flag
    assert flags == {
        "output_json.a": "sample_parse_error",
        "reasoning_text": "invalid_variable_error",
        "output_tools[0]": "invalid_variable_error",
    }
    assert Template("{{sample.output_tools}}").render(bare, {}) == "[]"


@pytest.mark.parametrize(
    "source",
    [
        "{{}}",
        "{{ }}",
        "{{item}}",
        "{{item.}}",
        "{{item.a.}}",
        "{{item..a}}",
        "{{item[]}}",
        "{{item[a]}}",
        "{{item[99999999999]}}",
        "{{item.a b}}",
        "{{items.a}}",
        "{{answer}}",
        "{{sample.output_audio.data}}",
        "{{sample[0]}}",
        "{{sample.finish_reason}}",
        "{{item.__class__",
        "open {{item.a} and text",
        "{{ {{item.a}} }}",
        "{{item.a|upper}} {{item.f()}} {{7*7}}",
    ],
)
def test_what_cannot_be_meant_is_refused(source: str) -> None:
    with pytest.raises(TemplateInvalid):
        Template(source)


def test_attributes_of_python_objects_are_out_of_reach() -> None:
    with pytest.raises(GradeFailure):
        Template("{{item.s.__class__}}").render(SAMPLE, ITEM)


def test_values_that_are_not_json_fail_cleanly() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (endless, deep, object(), 10**5000):
        with pytest.raises(GradeFailure) as failure:
            Template("{{item.x}}").render(SAMPLE, {"x": value})
        assert failure.value.flag == "invalid_variable_error"


def test_repeating_a_large_value_is_bounded() -> None:
    with pytest.raises(GradeFailure, match="grew past"):
        Template("{{item.x}}" * 1000).render(SAMPLE, {"x": "x" * 1_000_000})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(value=JSON)
def test_any_json_value_is_rendered_as_itself(value: Any) -> None:
    text = Template("<{{item.x}}>").render(SAMPLE, {"x": value})
    assert text[0] + text[-1] == "<>"
    assert (text[1:-1] if isinstance(value, str) else json.loads(text[1:-1])) == value


@settings(deadline=None)
@given(source=st.text(alphabet="{}ab.[]0-'\" itemsaple_x", max_size=40), item=JSON)
def test_any_source_renders_or_fails_by_its_own_errors(source: str, item: Any) -> None:
    try:
        template = Template(source)
    except TemplateInvalid:
        return
    with contextlib.suppress(GradeFailure):
        template.render(SAMPLE, {"a": item, "x": item})


@settings(deadline=None)
@given(text=st.text())
def test_text_without_double_braces_is_itself(text: str) -> None:
    text = text.replace("{{", "{")
    while "{{" in text:
        text = text.replace("{{", "{")
    assert Template(text).render(SAMPLE, {}) == text
