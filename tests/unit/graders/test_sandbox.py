"""What the sandbox promises beside keeping attacks in: whole verdicts, limits, spares, one end."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sandbox_levels import (
    at_level,
    graded,
    kind_of,
    python,
)

from jobs.errors import GraderInvalid
from jobs.graders import Sample
from jobs.graders.sandbox import pool

RUNTIME, SERVER = "python_grader_runtime_error", "python_grader_server_error"


@pytest.fixture(scope="module", params=["bwrap", "sealed"])
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with at_level(request.param):
        yield request.param


@pytest.fixture(scope="module")
def bwrap() -> Iterator[None]:
    """For what does not depend on the level."""
    with at_level("bwrap"):
        yield


def body(source: str) -> str:
    return f"def grade(sample, item):\n    {source}\n"


# Answers.


@pytest.mark.parametrize(("answer", "reward"), [("1", 1.0), ("True", 1.0), ("-2.5", -2.5)])
def test_numbers_are_rewards_as_they_are(bwrap: None, answer: str, reward: float) -> None:
    assert graded(python(body(f"return {answer}")), "").reward == reward


@pytest.mark.parametrize(
    "answer",
    ["float('nan')", "float('inf')", "None", "'1'", "[1.0]", "10**400", "1j",
     "type('F', (float,), {'__float__': lambda self: 9.0})(1.0)",
     "type('M', (type,), {'__eq__': lambda a, b: True, '__hash__': lambda a: 1})('F', (),"
     " {'__float__': lambda self: 9.0})()"],
)  # fmt: skip
def test_anything_else_is_a_runtime_error(bwrap: None, answer: str) -> None:
    grade = graded(python(body(f"return {answer}")), "")
    assert (grade.reward, grade.errors) == (None, {RUNTIME})
    assert "must return a finite number" in grade.details[RUNTIME]


def test_a_traceback_names_the_users_lines_and_no_others(bwrap: None) -> None:
    grader = python("def inner(x):\n    return 1 / x\n\ndef grade(s, i):\n    return inner(i['x'])")
    assert graded(grader, "", x=0).details[RUNTIME] == (
        "Traceback (most recent call last):\n"
        "  File \"<grader>\", line 5, in grade\n    return inner(i['x'])\n"
        '  File "<grader>", line 2, in inner\n    return 1 / x\n'
        "ZeroDivisionError: division by zero"
    )


def test_the_sample_and_the_item_arrive_whole(bwrap: None) -> None:
    sample = Sample("\ud800 \u00e9 \0", output_json={"a": [1, None]}, reasoning_text="why")
    grader = python(
        body(
            "return (sample['output_text'] == item['text']"
            " and sample['output_json'] == item['json']"
            " and sample['choices'][0]['message']['content'] == item['text']"
            " and sample['reasoning_text'] == 'why' and len(item['long']) == 300_000)"
        )
    )
    item = {"text": "\ud800 \u00e9 \0", "json": {"a": [1, None]}, "long": "x" * 300_000}
    assert grader.grade(sample, item).reward == 1.0


def test_the_same_row_draws_the_same_numbers_whatever_was_graded_before(bwrap: None) -> None:
    grader = python("import random\n" + body("return random.random()"), calls_per_process=3)
    first = [graded(grader, text).reward for text in "abcd"]
    again = [graded(grader, text).reward for text in "dcba"]
    assert first == again[::-1]
    assert len(set(first)) == 4


# What a source may be.


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def grade(s, i) return 1", "SyntaxError: expected ':' (line 1)"),
        ("x = 1", "must define grade(sample, item)"),
        ("grade = 3", "grade is not a function"),
        ("def grade(sample): return 1", "exactly two arguments: grade(sample, item)"),
        ("def grade(sample, item, more=1): return 1", "exactly two arguments"),
        ("def grade_group(samples): return 1", "exactly two arguments: grade_group(samples, item)"),
        ("async def grade(s, i): return 1", "plain function"),
        ("import honed_no_such_module", "ModuleNotFoundError"),
        ("import os\nos.fork()", "PermissionError"),
        ("x = bytearray(10 << 30)", "MemoryError"),
        ("(" * 100_000, "SyntaxError"),
        ("-" * 200_000 + "1", "loading the grader took too long or crashed"),
        ("x = 1\0", "null bytes"),
        ("raise SystemExit", "SystemExit"),
        ("import os\nos._exit(0)", "exit status 0"),
        ("\ud800 = 1", "surrogates not allowed"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_in_words(
    bwrap: None, source: str, says: str
) -> None:
    with pytest.raises(GraderInvalid) as refusal:
        python(source).check()
    assert refusal.value.param == "source"
    assert says in refusal.value.message or "MemoryError" in refusal.value.message


def test_a_module_that_never_loads_is_ended(bwrap: None) -> None:
    with pytest.raises(GraderInvalid, match="took too long or crashed"):
        python("import os, signal\nos.write(4, b'x' * 100_000)\nwhile True: pass").check()


def test_a_source_has_a_size_limit() -> None:
    fits = body("return 1") + "#" * (256_000 - len(body("return 1")))
    assert python(fits).source == fits
    with pytest.raises(ValueError, match="256000 is the most"):
        python(fits + "#")


@pytest.mark.parametrize("package", ["numpy", "rapidfuzz", "pydantic", "yaml", "sympy"])
def test_installed_packages_can_be_imported(level: str, package: str) -> None:
    pytest.importorskip(package)
    grader = python(
        f"import {package}\n" + body(f"return {package}.__name__ == '{package}'"), memory_mb=2048
    )
    grader.check()
    assert graded(grader, "").reward == 1.0


# Rows keep apart.


def test_text_that_runs_as_code_gets_a_process_of_its_own(level: str) -> None:
    count = """exec('import builtins; builtins.n = getattr(builtins, "n", 0) + 1')"""
    counts = python("import builtins\n" + body(f"{count}\n    return builtins.n"))
    assert [graded(counts, str(n)).reward for n in range(4)] == [1.0] * 4


def test_other_graders_may_keep_state_for_some_calls(level: str) -> None:
    counts = python("n = 0\n" + "def grade(s, i):\n    global n\n    n += 1\n    return n")
    assert [graded(counts, "").reward for _ in range(34)] == [*map(float, range(1, 33)), 1.0, 2.0]


def test_a_forged_verdict_on_a_later_row_is_none(level: str) -> None:
    """Ahead of its time nobody can know a row's nonce: the lie costs its own sample."""
    grader = python(
        "import os, struct\n"
        + body(
            "if item['lie']: [os.write(4, struct.pack('<QBIHHd', 0, 0, 0, 1, 0, 1.0)) "
            "for _ in range(2)]\n    return 0.5"
        )
    )
    grades = [graded(grader, "", lie=lie) for lie in (False, True, False, False)]
    assert [grade.reward for grade in grades] == [0.5, None, 0.5, 0.5]
    assert kind_of(grades[1]) in ("forged_verdict", "crashed")


def test_no_other_row_is_in_a_graders_memory(level: str) -> None:
    """Whatever the harness's heap holds when a child is forked, it is no row: none was there."""
    search = """
import gc
held = [one for one in gc.get_objects() if isinstance(one, (dict, list, tuple))]
parts = [part for one in held for part in (one.values() if type(one) is dict else one)]
texts = [str(part) for part in parts if type(part) in (str, bytes)]
reward = float(any(item["reversed"] in text[::-1] for text in texts))
"""
    label = "label-nobody-else-has"
    grader = python()
    assert graded(grader, "", label=[label]).reward == 0.25
    assert graded(grader, search, reversed=label[::-1]).reward == 0.0
    assert graded(grader, search, label=[label], reversed=label[::-1]).reward == 1.0


# Groups.


def test_a_group_is_ranked_in_one_call(level: str) -> None:
    grader = python(
        "def grade_group(samples, item):\n"
        "    order = sorted(samples, key=lambda s: len(s['output_text']))\n"
        "    return [order.index(s) / item['most'] for s in samples]\n"
    )
    grader.check()
    assert grader.is_group_aware
    grades = grader.grade_group([Sample("ccc"), Sample("a"), Sample("bb")], {"most": 2})
    assert [grade.reward for grade in grades] == [1.0, 0.0, 0.5]
    assert grader.grade(Sample("alone"), {"most": 2}).reward == 0.0


@pytest.mark.parametrize("answer", ["[1.0]", "[1.0, float('nan')]", "[1.0, None]", "1.0", "'ab'"])
def test_a_bad_group_answer_fails_for_all_of_it(level: str, answer: str) -> None:
    grader = python(f"def grade_group(samples, item): return {answer}")
    grades = grader.grade_group([Sample("a"), Sample("b")], {})
    assert [(grade.reward, grade.errors) for grade in grades] == [(None, {RUNTIME})] * 2


def test_the_largest_group_fits(level: str) -> None:
    grader = python("def grade_group(samples, item): return [i for i, _ in enumerate(samples)]")
    grades = grader.grade_group([Sample(str(n)) for n in range(256)], {})
    assert [grade.reward for grade in grades] == [float(n) for n in range(256)]


# Limits.


def test_limits_are_those_of_cpu_not_of_a_busy_machine(level: str) -> None:
    """Eight at once on few cores take longer than their CPU limit, and none is ended."""
    grader = python(
        "import time\n"
        + body(
            "end = time.process_time() + 0.1\n"
            "    while time.process_time() < end: pass\n    return 1"
        ),
        calls_per_process=1,
        wall_seconds=60,
    )
    with ThreadPoolExecutor(8) as threads:
        grades = list(threads.map(lambda n: graded(grader, str(n)), range(8)))
    assert [grade.reward for grade in grades] == [1.0] * 8


def test_many_hanging_rows_are_bounded(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_KILLS_IN_A_ROW", 3)
    grader = python(body("while item['hang']: pass\n    return 1"), cpu_seconds=0.1)
    kinds = [kind_of(graded(grader, "", hang=True)) for _ in range(400)]
    assert kinds == ["timeout"] * 3 + ["skipped"] * 397
