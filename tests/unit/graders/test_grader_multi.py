"""multi: formula over keys, components apart, failures that stay failures."""

import time

import pytest

from jobs.graders import Sample, parse_grader

EXACT = {
    "type": "string_check",
    "name": "exact_grader",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
WORDS = {"type": "length", "unit": "words", "target": 4}


def multi(graders: object, formula: str) -> dict:
    return {"type": "multi", "graders": graders, "calculate_output": formula}


def test_map_keys_are_the_variables() -> None:
    grader = parse_grader(multi({"ok": EXACT, "short": WORDS}, "ok + 0.5 * short"))
    grade = grader.grade(Sample("a b"), {"answer": "a b"})
    assert grade.reward == 1.25
    assert grade.sub_rewards == {"ok": 1.0, "short": 0.5}
    assert grade.errors == frozenset()
    assert grade.error_detail is None
    assert grade.seconds > 0


def test_the_guides_own_example() -> None:
    grader = parse_grader(
        multi(
            {
                "name": {
                    "name": "name_grader",
                    "type": "text_similarity",
                    "input": "{{sample.output_json.name}}",
                    "reference": "{{item.name}}",
                    "evaluation_metric": "fuzzy_match",
                    "pass_threshold": 0.9,
                },
                "email": {
                    "name": "email_grader",
                    "type": "string_check",
                    "input": "{{sample.output_json.email}}",
                    "reference": "{{item.email}}",
                    "operation": "eq",
                },
            },
            "(name + email) / 2",
        )
    )
    item = {"name": "John Doe", "email": "john.doe@gmail.com"}
    parsed = {"name": "John Do", "email": "john.doe@gmail.com"}
    grade = grader.grade(Sample("{...}", output_json=parsed), item)
    assert grade.reward == pytest.approx((1 - 1 / 15 + 1) / 2)
    unparsed = grader.grade(Sample("{..."), item)
    assert (unparsed.reward, unparsed.errors) == (None, {"sample_parse_error"})


@pytest.mark.parametrize(
    ("graders", "formula"),
    [([EXACT, WORDS], "exact_grader + length"), (EXACT, "exact_grader + 0.5")],
)
def test_a_list_or_one_grader_is_keyed_by_name(graders: object, formula: str) -> None:
    grader = parse_grader(multi(graders, formula))
    assert grader.grade(Sample("a b"), {"answer": "a b"}).reward == 1.5
    assert parse_grader(grader.dump()).dump() == grader.dump()
    assert grader.dump()["graders"]["exact_grader"] == EXACT


def test_a_failing_component_leaves_no_reward() -> None:
    grader = parse_grader(multi({"ok": EXACT, "short": WORDS}, "ok + short"))
    grade = grader.grade(Sample("a b"), {})
    assert grade.reward is None
    assert grade.sub_rewards == {"ok": None, "short": 0.5}
    assert grade.errors == {"invalid_variable_error"}
    assert grade.error_detail == "ok: item.answer is not there"


def test_a_failing_component_that_the_formula_leaves_out_is_only_shown() -> None:
    grade = parse_grader(multi({"ok": EXACT, "short": WORDS}, "short")).grade(Sample("a b"), {})
    assert grade.reward == 0.5
    assert grade.sub_rewards == {"ok": None, "short": 0.5}
    assert grade.errors == frozenset()


def test_a_formula_without_a_result_keeps_the_components() -> None:
    grade = parse_grader(multi({"ok": EXACT}, "1 / ok")).grade(Sample("a"), {"answer": "b"})
    assert grade.reward is None
    assert grade.sub_rewards == {"ok": 0.0}
    assert grade.errors == {"formula_parse_error"}
    assert grade.error_detail == "calculate_output: it divides by zero (ok = 0)"


def test_item_paths_of_all_components() -> None:
    contains = {"type": "contains", "values": ["{{item.meta.level}}", "{{item.tags[0]}}", "x"]}
    grader = parse_grader(multi({"a": EXACT, "b": contains}, "a"))
    assert grader.item_paths() == {"answer", "meta.level", "tags[0]"}
    assert grader.missing_item_paths({"answer": None, "meta": {"level": 1}, "tags": []}) == [
        "tags[0]"
    ]


def test_three_string_graders_are_quick() -> None:
    grader = parse_grader(multi({"a": EXACT, "b": EXACT, "c": EXACT}, "0.5*a + 0.3*b + 0.2*c"))
    sample, item = Sample("answer " * 50), {"answer": "answer"}
    fastest = min(_seconds_of_hundred(grader, sample, item) for _ in range(10)) / 100
    assert fastest < 100e-6


def _seconds_of_hundred(grader, sample: Sample, item: dict) -> float:
    started = time.perf_counter()
    for _ in range(100):
        grader.grade(sample, item)
    return time.perf_counter() - started
