"""A bad definition is refused with its place and a sentence; a good one comes back the same."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from court import MESSAGES, SCORE, Court
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.graders import GRADER_TYPES, GraderInvalid, GraderSpec, grader_json_schema, parse_grader

CHECK = {"type": "string_check", "input": "x", "reference": "y", "operation": "eq"}
WORDS = {"type": "length", "unit": "words", "max": 3}


def with_(base: dict, **fields: Any) -> dict:
    return {**base, **fields}


def multi(graders: object, formula: object = "1") -> dict:
    return {"type": "multi", "graders": graders, "calculate_output": formula}


REFUSED = [
    (None, "", "JSON object"),
    ([CHECK], "", "JSON object"),
    ({}, "type", "needs a type, one of string_check, text_similarity"),
    ({"type": "strig_check"}, "type", "unknown grader type 'strig_check': the types are"),
    ({"type": 3}, "type", "unknown grader type"),
    ({"type": "python"}, "source", "source is missing from the python grader"),
    ({"type": "python", "source": "x", "wall_seconds": 121}, "wall_seconds", "120"),
    ({"type": "label_model"}, "type", "only inside a multi"),
    ({"type": "string_check"}, "input", "input is missing from the string_check grader"),
    (
        {"type": "string_check", "input": "x", "reference": "y", "operatoin": "eq"},
        "operatoin",
        "fields here are type, name, input, reference, operation",
    ),
    (with_(CHECK, operation="equals"), "operation", "'eq', 'ne', 'like' or 'ilike'"),
    (with_(CHECK, operation=["eq"]), "operation", "not an array"),
    (with_(CHECK, input=3), "input", "valid string, not 3"),
    (with_(CHECK, input=None), "input", "valid string, not null"),
    (with_(CHECK, name={}), "name", "not an object"),
    (with_(CHECK, name="x" * 300), "name", "at most 256"),
    (with_(CHECK, input="{{" + "x" * 10**6 + "}}"), "input", "input: {{xxx"),
    (with_(CHECK, **{"x" * 10**6: 1}), "x" * 80 + "...", "is not a field"),
    (multi([with_(WORDS, name="x" * 10**6)]), "graders", "the key 'xxx"),
    (with_(CHECK, input="{{foo}}"), "input", "{{foo}} is not a variable"),
    (with_(CHECK, reference="{{sample.text}}"), "reference", "sample.text does not exist"),
    (with_(CHECK, input="\ud800"), "", "half a surrogate pair"),
    (with_(CHECK, **{"\ud800": 1}), "", "valid string"),
    (
        {"type": "text_similarity", "input": "x", "reference": "y", "evaluation_metric": "cosine"},
        "evaluation_metric",
        "the operator can name a service in HONED_EMBEDDINGS",
    ),
    ({"type": "regex", "pattern": "(a"}, "pattern", "missing )"),
    ({"type": "regex", "pattern": "a(?=b)"}, "pattern", "invalid perl operator"),
    ({"type": "regex", "pattern": ""}, "pattern", "at least 1 character"),
    ({"type": "regex", "pattern": "a" * 5000}, "pattern", "at most 4096"),
    ({"type": "regex", "pattern": "((a{100}){100}){100}"}, "pattern", "repetition size"),
    ({"type": "regex", "pattern": r"(\p{L}{30}){30}"}, "pattern", "too large"),
    ({"type": "regex", "pattern": r"\p{L}{20}" * 2}, "pattern", "more than 10000"),
    ({"type": "length", "unit": "words"}, "", "length grader: give exactly one rule"),
    (with_(WORDS, target=3), "", "exactly one rule"),
    (with_(WORDS, min=4), "", "min (4) must not exceed max (3)"),
    (with_(WORDS, falloff=4), "", "falloff belongs to target"),
    (with_(WORDS, unit="tokens", input="x"), "", "leave out input"),
    (with_(WORDS, max=True), "max", "valid integer"),
    (with_(WORDS, max=-1), "max", "greater than or equal to 0"),
    (
        {"type": "length", "unit": "words", "soft_overlong": {"max": 3, "cache": 4}},
        "soft_overlong",
        "cache (4) must not exceed max (3)",
    ),
    (
        {"type": "length", "unit": "words", "soft_overlong": {"max": 3, "cash": 1}},
        "soft_overlong.cash",
        "fields here are max, cache",
    ),
    ({"type": "contains", "values": []}, "values", "must not be empty"),
    ({"type": "contains", "values": ["a", ""]}, "values", "every text contains"),
    ({"type": "contains", "values": ["a", 3]}, "values.1", "valid string, not 3"),
    ({"type": "blocklist", "words": ["\u200b"]}, "words", "1 to 16 words"),
    ({"type": "blocklist", "words": ["a " * 17]}, "words", "1 to 16 words"),
    ({"type": "number", "reference": "1", "tolerance": -1}, "tolerance", "greater than"),
    ({"type": "number", "reference": "1", "tolerance": float("nan")}, "tolerance", "finite"),
    ({"type": "repetition", "ngram": 0}, "ngram", "greater than or equal to 1"),
    (multi({}), "graders", "must not be empty"),
    (multi([]), "graders", "must not be empty"),
    (multi("x"), "graders", "valid dictionary"),
    (multi(["x"]), "graders", "grader 0 is not an object"),
    (multi([WORDS, WORDS]), "graders", "two graders are named 'length'"),
    (multi([with_(WORDS, name="my grader")]), "graders", "the key 'my grader' cannot stand"),
    (multi({"a-b": WORDS}), "graders", "the key 'a-b' cannot stand in a formula"),
    (multi({"a": multi({"b": WORDS})}), "graders.a.type", "cannot hold another multi"),
    (multi({"a": {"type": "ruler"}}), "graders.a.model", "missing from the ruler grader"),
    (multi({"a": {"type": "x"}}), "graders.a.type", "unknown grader type 'x'"),
    (multi({"a": 1}), "graders.a", "graders.a"),
    (multi({"a": with_(CHECK, operation="is")}), "graders.a.operation", "'eq', 'ne'"),
    (multi({"a": with_(WORDS, max=None)}), "graders.a", "exactly one rule"),
    (multi({"a": with_(WORDS, top=1)}), "graders.a.top", "fields here are type, name, input, unit"),
    (multi(with_(WORDS, top=1)), "graders.length.top", "fields here are type, name, input, unit"),
    (multi({"a": WORDS}, "b"), "calculate_output", "unknown variable 'b' at character 1"),
    (multi({"a": WORDS}, "a +"), "calculate_output", "the formula ends"),
    (multi({"a": WORDS}, "f(a)"), "calculate_output", "unknown function 'f' at character 1"),
    (multi({"a": WORDS}, 1), "calculate_output", "valid string, not 1"),
    ({"type": "multi", "graders": {"a": WORDS}}, "calculate_output", "missing"),
]


@pytest.mark.parametrize(("definition", "param", "message"), REFUSED)
def test_refused(definition: object, param: str, message: str) -> None:
    with pytest.raises(GraderInvalid) as refused:
        parse_grader(definition)
    assert message in refused.value.message
    assert refused.value.param == param
    assert len(refused.value.message) <= 403
    refused.value.message.encode()  # it goes into an answer


def test_defaults_are_filled_in() -> None:
    assert parse_grader(with_(CHECK, operation="neq")).dump() == {
        "type": "string_check",
        "name": "string_check",
        "input": "x",
        "reference": "y",
        "operation": "ne",
    }
    assert parse_grader({"type": "regex", "pattern": "a", "name": None}).dump() == {
        "type": "regex",
        "name": "regex",
        "input": "{{sample.output_text}}",
        "pattern": "a",
        "mode": "search",
    }


def test_a_dump_is_json_and_parses_back() -> None:
    for definition in (
        CHECK,
        WORDS,
        multi({"a": WORDS, "b": CHECK}, "a + b"),
        {"type": "length", "unit": "tokens", "soft_overlong": {"max": 9, "cache": 3}},
    ):
        dumped = parse_grader(definition).dump()
        assert parse_grader(json.loads(json.dumps(dumped))).dump() == dumped


def test_the_json_schema_names_every_type() -> None:
    schema = json.dumps(grader_json_schema())
    assert all(f'"{kind}"' in schema for kind in GRADER_TYPES)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = sorted({field for spec in GRADER_TYPES.values() for field in spec.model_fields})


@settings(deadline=None)
@given(
    kind=st.sampled_from(sorted(GRADER_TYPES)),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
)
def test_any_definition_parses_or_is_refused(kind: str, fields: dict) -> None:
    with contextlib.suppress(GraderInvalid):
        parse_grader({**fields, "type": kind})


def test_a_deeply_nested_definition_is_refused() -> None:
    deep: Any = {}
    for _ in range(50_000):
        deep = {"a": deep}
    with pytest.raises(GraderInvalid):
        parse_grader(with_(CHECK, input=deep))
    with pytest.raises(GraderInvalid):
        parse_grader(multi(deep))


@pytest.mark.parametrize("grader", GRADER_TYPES)
def test_null_is_the_default_of_every_field_that_has_one(grader: str) -> None:
    """What an answer shows as null, and what clients send for what they leave out."""
    for nested in (GRADER_TYPES[grader], *GRADER_TYPES[grader].nested.values()):
        fields = nested.model_fields
        nulls: dict[str, Any] = dict.fromkeys(
            name for name, field in fields.items() if not field.is_required()
        )
        if issubclass(nested, GraderSpec):
            nulls["type"] = grader
        try:
            nested.model_validate(nulls)
        except ValidationError as error:
            wrong = {problem["loc"][0] for problem in error.errors()}
            assert wrong <= {name for name, field in fields.items() if field.is_required()}


def test_a_definition_that_a_client_dumped_with_nulls_is_taken(court: Callable[..., Court]) -> None:
    dumped = with_(
        SCORE,
        range=None,
        sampling_params={"seed": 3, "top_p": None, "temperature": None},
        input=[{**message, "type": None} for message in MESSAGES],
    )
    means = court(lambda _: None).means
    plain = parse_grader(with_(SCORE, sampling_params={"seed": 3}), means)
    assert parse_grader(dumped, means).dump() == plain.dump()
    both = multi({"a": with_(WORDS, name=None, min=None)}, "a")
    assert parse_grader(both).dump() == parse_grader(multi({"a": WORDS}, "a")).dump()
    for wrong in (with_(SCORE, temprature=0.5), with_(SCORE, temprature=None)):
        with pytest.raises(GraderInvalid, match="temprature is not a field"):
            parse_grader(wrong, means)
