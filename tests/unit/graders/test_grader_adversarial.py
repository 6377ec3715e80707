"""Hostile and huge answers cost a bounded time and never more than their own grade."""

import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.graders import GraderSpec, Sample, parse_grader

GRADERS = [
    {"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.x}}",
     "operation": "ilike"},
    {"type": "text_similarity", "input": "{{sample.output_text}}", "reference": "{{item.x}}",
     "evaluation_metric": "fuzzy_match"},
    {"type": "regex", "pattern": "(x+x+)+y"},
    {"type": "regex", "pattern": "(a|b)*a(a|b){12}c"},
    {"type": "length", "unit": "words", "max": 5},
    {"type": "contains", "values": ["{{item.x}}" + str(n) for n in range(50)], "ignore_case": True},
    {"type": "blocklist", "words": [*(f"word{n}" for n in range(5000)), "a b c d e f g"]},
    {"type": "number", "reference": "5"},
    {"type": "repetition", "ngram": 4},
]  # fmt: skip
PARSED = [parse_grader(definition) for definition in GRADERS]
MEGABYTE = 1_000_000
TEXTS = {
    "one letter": "x" * MEGABYTE,
    "digits": "1" * MEGABYTE,
    "thousands": "111," * (MEGABYTE // 4),
    "points": "1." * (MEGABYTE // 2),
    "minuses": "-" * MEGABYTE,
    "ab": "ab" * (MEGABYTE // 2),
    "words": "two bad " * (MEGABYTE // 8),
    "signs": "+" * MEGABYTE,
    "spaces": " " * MEGABYTE,
    "marks": "a" + "\u0301\u0323" * (MEGABYTE // 4),
    "tibetan marks": "\u0f73" * (MEGABYTE // 3),
    "halfwidth marks": ("\u0301" * 30 + "\uff9e") * (MEGABYTE // 64),
    "ligatures": "\ufdfa" * (MEGABYTE // 3),
    "chinese": "\u574f\u4eba" * (MEGABYTE // 6),
    "surrogates": "\ud800" * (MEGABYTE // 3),
    "nulls": "\0" * MEGABYTE,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("grader", PARSED, ids=lambda grader: grader.name)
def test_a_megabyte_is_graded_in_bounded_time(grader: GraderSpec, text: str) -> None:
    started = time.process_time()
    grade = grader.grade(Sample(text), {"x": "reference"})
    assert time.process_time() - started < 5
    assert grade.errors == frozenset()


def test_text_too_long_for_its_pattern_or_reference_is_a_failure() -> None:
    large = parse_grader({"type": "regex", "pattern": "(a|b)*a(a|b){900}c"})
    assert large.grade(Sample("ab" * MEGABYTE), {}).errors == {"other_error"}
    pair = {"input": "{{item.x}}", "reference": "{{item.x}}", "evaluation_metric": "fuzzy_match"}
    similar = parse_grader({"type": "text_similarity", **pair})
    assert similar.grade(Sample(""), {"x": "ab" * MEGABYTE}).errors == {"other_error"}


@settings(deadline=None)
@given(text=st.text(st.characters()), reference=st.text(st.characters()))
def test_any_text_gets_a_reward(text: str, reference: str) -> None:
    for grader in PARSED:
        assert grader.grade(Sample(text), {"x": reference}).errors == frozenset(), grader.name


def test_only_the_known_letters_decompose_into_marks() -> None:
    """What keeps the blocklist's normalization from taking quadratic time."""
    found = {
        chr(point)
        for point in range(sys.maxunicode + 1)
        if unicodedata.category(chr(point))[0] != "M"
        and unicodedata.combining(unicodedata.normalize("NFKD", chr(point))[:1] or "a")
    }
    assert found == {"\uff9e", "\uff9f"}
