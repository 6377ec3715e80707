"""Rewards of every single type, against numbers worked out by hand."""

import pickle
from typing import Any

import pytest

from jobs.graders import Grade, Sample, parse_grader


def grade(
    kind: str,
    text: str,
    item: dict[str, Any] | None = None,
    *,
    num_tokens: int | None = None,
    **fields: Any,
) -> Grade:
    sample = Sample(output_text=text, num_tokens=num_tokens)
    return parse_grader({"type": kind, **fields}).grade(sample, item or {})


def reward(kind: str, text: str, item: dict[str, Any] | None = None, **fields: Any) -> float:
    result = grade(kind, text, item, **fields)
    assert result.error_detail is None
    assert result.reward is not None
    return result.reward


OUTPUT = "{{sample.output_text}}"


@pytest.mark.parametrize(
    ("operation", "text", "reference", "expected"),
    [
        ("eq", "Paris", "Paris", 1),
        ("eq", "Paris", "paris", 0),
        ("eq", "Paris ", "Paris", 0),
        ("ne", "Paris", "paris", 1),
        ("neq", "Paris", "Paris", 0),
        ("like", "It is Paris.", "Paris", 1),
        ("like", "Paris", "It is Paris.", 0),
        ("like", "it is paris", "Paris", 0),
        ("ilike", "it is PARIS", "Paris", 1),
        ("ilike", "STRASSE", "stra\u00dfe", 1),
        ("ilike", "London", "Paris", 0),
    ],
)
def test_string_check(operation: str, text: str, reference: str, expected: float) -> None:
    fields = {"input": OUTPUT, "reference": reference, "operation": operation}
    assert reward("string_check", text, **fields) == expected


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("abc", "abc", 1.0),
        ("", "", 1.0),
        ("", "abc", 0.0),
        ("abc", "xyz", 0.0),
        ("abcd", "abc", 1 - 1 / 7),
        ("Abc", "abc", 1 - 2 / 6),
        ("fuzzy wuzzy was a bear", "fuzzy wuzzy had no hair", 1 - 11 / 45),
    ],
)
def test_fuzzy_match(text: str, reference: str, expected: float) -> None:
    fields = {"input": OUTPUT, "reference": reference, "evaluation_metric": "fuzzy_match"}
    assert reward("text_similarity", text, **fields) == pytest.approx(expected, abs=1e-12)
    assert reward("text_similarity", text, pass_threshold=1, **fields) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("see 42", {"pattern": "[0-9]+"}, 1),
        ("see", {"pattern": "[0-9]+"}, 0),
        ("see 42", {"pattern": "[0-9]+", "mode": "fullmatch"}, 0),
        ("42", {"pattern": "[0-9]+", "mode": "fullmatch"}, 1),
        ("x 42", {"pattern": "[0-9]+", "reference": "{{item.a}}"}, 1),
        ("x 43", {"pattern": "[0-9]+", "reference": "{{item.a}}"}, 0),
        ("x=42", {"pattern": "x=([0-9]+)", "reference": "{{item.a}}"}, 1),
        ("y", {"pattern": "(x)|y", "reference": ""}, 0),
        ("na\u00efve caf\u00e9", {"pattern": "caf.$"}, 1),
        ("\ud83d", {"pattern": "^.$"}, 1),
    ],
)
def test_regex(text: str, fields: dict, expected: float) -> None:
    assert reward("regex", text, {"a": 42}, **fields) == expected


@pytest.mark.parametrize(
    ("fields", "num_words", "expected"),
    [
        ({"target": 10}, 10, 1.0),
        ({"target": 10}, 5, 0.5),
        ({"target": 10}, 13, 0.7),
        ({"target": 10}, 25, 0.0),
        ({"target": 10, "falloff": 2}, 9, 0.5),
        ({"target": 10, "falloff": 2}, 7, 0.0),
        ({"min": 3}, 2, 0.0),
        ({"min": 3}, 3, 1.0),
        ({"min": 3, "max": 5}, 5, 1.0),
        ({"min": 3, "max": 5}, 6, 0.0),
        ({"soft_overlong": {"max": 10, "cache": 4}}, 6, 0.0),
        ({"soft_overlong": {"max": 10, "cache": 4}}, 7, -0.25),
        ({"soft_overlong": {"max": 10, "cache": 4}}, 10, -1.0),
        ({"soft_overlong": {"max": 10, "cache": 4}}, 99, -1.0),
    ],
)
def test_length(fields: dict, num_words: int, expected: float) -> None:
    text = "w " * num_words
    assert reward("length", text, unit="words", **fields) == pytest.approx(expected)
    assert reward("length", "w" * num_words, unit="characters", **fields) == pytest.approx(expected)
    tokens = grade("length", "", unit="tokens", num_tokens=num_words, **fields)
    assert tokens.reward == pytest.approx(expected)


def test_length_in_tokens_needs_a_count() -> None:
    result = grade("length", "some text", unit="tokens", max=5)
    assert (result.reward, result.errors) == (None, {"other_error"})


def test_length_of_a_row_field() -> None:
    assert reward("length", "", {"x": "a b"}, input="{{item.x}}", unit="words", max=2) == 1


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("a dog", {"values": ["cat", "dog"]}, 1),
        ("a cow", {"values": ["cat", "dog"]}, 0),
        ("a dog", {"values": ["cat", "dog"], "mode": "all"}, 0),
        ("cat and dog", {"values": ["cat", "dog"], "mode": "all"}, 1),
        ("a DOG", {"values": ["dog"]}, 0),
        ("a DOG", {"values": ["dog"], "ignore_case": True}, 1),
        ("say 7!", {"values": ["{{item.n}}!"]}, 1),
    ],
)
def test_contains(text: str, fields: dict, expected: float) -> None:
    assert reward("contains", text, {"n": 7}, **fields) == expected


def test_contains_does_not_look_for_nothing() -> None:
    result = grade("contains", "text", {"keyword": ""}, values=["{{item.keyword}}"])
    assert (result.reward, result.errors) == (None, {"invalid_variable_error"})


@pytest.mark.parametrize(
    ("text", "is_blocked"),
    [
        ("ass", True),
        ("An ASS!", True),
        ("_ass_", True),
        ("first class assessment", False),
        ("grass", False),
        ("a\u00adss", True),
        ("a\u200bs\u200ds", True),
        ("\uff41\uff53\uff53", True),  # full-width letters
        ("bad word", True),
        ("bad\n\u00a0 word", True),
        ("bad, word", False),
        ("badword", False),
        ("caf\u00e9", True),
        ("CAFE\u0301", True),  # decomposed
        ("cafe", False),
        ("c++11", True),  # signs part words
        ("use C++ here", True),
        ("use C here", False),
        ("\u4f60\u662f\u574f\u4eba\u5417", True),  # no spaces between Chinese words
        ("\u574f \u597d", False),
        ("\u0915\u092e", True),
        ("\u0915\u092e\u0940", False),  # a vowel sign makes it another word
    ],
)
def test_blocklist(text: str, is_blocked: bool) -> None:
    words = ["ass", "Bad Word", "cafe\u0301", "c++", "\u574f\u4eba", "\u0915\u092e"]
    assert reward("blocklist", text, words=words) == (0.0 if is_blocked else 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 1234.5.", 1),
        ("1,234.50 EUR", 1),
        ("12 then 1234.5", 1),
        ("1234.5 then 12", 0),
        ("1.2345e3", 1),
        ("+1234.5", 1),
        ("-1234.5", 0),
        ("\u22121234.5", 0),
        ("x1234.5", 0),
        ("none", 0),
        ("", 0),
        ("1e9999", 0),
        ("1234.6", 0),
        ("1234.509", 1),
    ],
)
def test_number(text: str, expected: float) -> None:
    fields = {"reference": "{{item.n}}", "tolerance": 0.01}
    assert reward("number", text, {"n": 1234.5}, **fields) == expected


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [("3, 4, 5", 5, 1), (".5", 0.5, 1), ("10-7", 7, 1), ("= -7", "-7", 1), ("108", 100, 1)],
)
def test_number_forms(text: str, reference: Any, expected: float) -> None:
    fields = {"reference": "{{item.n}}", "relative_tolerance": 0.08}
    assert reward("number", text, {"n": reference}, **fields) == expected


@pytest.mark.parametrize("reference", ["five", "", True, "1 2", "nan", "1e999"])
def test_number_refuses_a_reference_that_is_none(reference: Any) -> None:
    result = grade("number", "5", {"n": reference}, reference="{{item.n}}")
    assert (result.reward, result.errors) == (None, {"invalid_variable_error"})


@pytest.mark.parametrize(
    ("text", "ngram", "expected"),
    [
        ("a b c d", 4, 1.0),
        ("a b", 4, 1.0),
        ("", 1, 1.0),
        ("a A a a", 1, 0.25),
        ("a b a b a", 2, 0.5),
    ],
)
def test_repetition(text: str, ngram: int, expected: float) -> None:
    assert reward("repetition", text, ngram=ngram) == expected


def test_a_missing_field_is_a_flag_and_not_a_zero() -> None:
    result = grade("string_check", "x", input=OUTPUT, reference="{{item.a}}", operation="eq")
    assert result.reward is None
    assert result.errors == {"invalid_variable_error"}
    assert result.error_detail == "item.a is not there"
    assert result.seconds > 0


@pytest.mark.parametrize(
    "definition",
    [
        {"type": "regex", "pattern": "a(.)"},
        {"type": "blocklist", "words": ["b"]},
        {"type": "multi", "graders": {"x": {"type": "contains", "values": ["a"]}},
         "calculate_output": "2 * x"},
    ],
)  # fmt: skip
def test_graders_travel_to_other_processes(definition: dict) -> None:
    grader = parse_grader(definition)
    copy = pickle.loads(pickle.dumps(grader))
    assert copy.dump() == grader.dump()
    assert copy.grade(Sample("ab"), {}).reward == grader.grade(Sample("ab"), {}).reward
