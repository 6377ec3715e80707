"""multi: formula over keys, components apart, failures that stay failures."""

import time

import pytest

from jobs.graders import GraderInvalid, Sample, parse_grader
from jobs.graders.alone import grades_alone
from jobs.graders.sandbox import pools

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


# Python parts.


def part(source: str, **fields: object) -> dict:
    return {"type": "python", "source": f"def grade(sample, item):\n    {source}\n", **fields}


def test_python_parts_run_side_by_side() -> None:
    """Two parts of two samples each, three seconds a call: not one after another."""
    sleeps = "import time; time.sleep(3.0); return 1.0"
    grader = parse_grader(multi({"a": part(sleeps), "b": part(f"x = 1; {sleeps}")}, "a + b"))
    grader.check()
    started = time.perf_counter()
    grades = grader.grade_group([Sample("x"), Sample("y")], {})
    assert [grade.reward for grade in grades] == [2.0, 2.0]
    assert time.perf_counter() - started < 4 * 3.0


def test_errors_of_several_python_parts_are_told_together() -> None:
    graders = {
        "a": part("return 1 / 0"),
        "b": part("return item['x']"),
        "c": part("while True: pass", cpu_seconds=0.2),
        "d": part("import os; os._exit(3)"),
    }
    grade = parse_grader(multi(graders, "a + b + c + d")).grade(Sample(""), {})
    runtime, server = "python_grader_runtime_error", "python_grader_server_error"
    assert grade.errors == {runtime, server}
    assert "a: Traceback" in grade.details[runtime]
    assert "; b: Traceback" in grade.details[runtime]
    assert grade.details[server] == "timeout"
    for key in graders:
        assert f"{key}: " in (grade.error_detail or "")


def test_more_python_parts_than_sandboxes_are_refused() -> None:
    parts = {f"p{number}": part(f"return {number}") for number in range(9)}
    with pytest.raises(GraderInvalid, match="9 python graders, and 8 is the most") as refused:
        parse_grader(multi(parts, "p0"))
    assert refused.value.param == "graders"
    same = {key: part("return 1") for key in parts}  # one program, one sandbox
    assert parse_grader(multi(same, "p0")).grade(Sample(""), {}).reward == 1.0


def test_whether_a_grader_ranks_is_known_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_starts(*_: object) -> None:
        raise AssertionError("a sandbox was asked for")

    ranks = "def grade_group(samples, item):\n    return [0.0 for _ in samples]\n"
    grader = parse_grader(multi({"r": {"type": "python", "source": ranks}}, "r"))
    alone = parse_grader(part("return 1"))
    grader.check()
    monkeypatch.setattr(pools, "borrowed", none_starts)
    assert grader.is_group_aware
    assert not grades_alone(grader)
    assert not alone.is_group_aware
    assert grades_alone(alone)
