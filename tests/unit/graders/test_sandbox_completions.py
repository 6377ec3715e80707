"""run_code: a completion's code runs where it can reach neither the labels nor the verdict."""

from collections.abc import Iterator

import pytest
from sandbox_levels import NAMES, at_level, graded, python

from jobs.graders.python import Python

# The reward is 1.0 where the run's field is what the row wants.
REPORTS = """
def grade(sample, item):
    run = run_code(sample["output_text"], **item.get("how", {}))
    found = getattr(run, item["field"])
    if item["field"] == "error":
        return float(item["wanted"] in found)
    return float(found == item["wanted"])
"""


@pytest.fixture(scope="module", params=NAMES)
def grader(request: pytest.FixtureRequest) -> Iterator[Python]:
    with at_level(request.param):
        yield python(REPORTS, wall_seconds=15.0)


@pytest.mark.parametrize(
    ("text", "how", "field", "wanted"),
    [
        (" (3 + 4) * 6\n", {}, "value", 42),
        ("def f(a, b):\n    return [a, {'b': b}]", {"call": "f", "args": [1, 2]}, "value",
         [1, {"b": 2}]),
        ("print(input()[::-1])", {"stdin": "abc"}, "stdout", "cba\n"),
        ("1 / 0", {}, "error", "ZeroDivisionError"),
        ("object()", {}, "error", "not JSON serializable"),
        ("def f(: pass", {}, "error", "SyntaxError"),
        ("raise SystemExit(0)", {}, "ok", False),
        ("import os; os._exit(0)", {}, "error", "exit status 0"),
        ("while True: pass", {"seconds": 0.3}, "error", "longer than 0.3 s"),
        ("open('/etc/passwd')", {}, "ok", False),
        ("import os; os.fork()", {}, "error", "PermissionError"),
        ("import socket; socket.socket()", {}, "ok", False),
        ("bytearray(10 << 30)", {}, "error", "MemoryError"),
        ("'x' * (4 << 20)", {}, "ok", False),
        ("import os; os.write(4, b'x' * 100)", {}, "ok", False),
    ],
)  # fmt: skip
def test_a_run_says_what_became_of_it(
    grader: Python, text: str, how: dict, field: str, wanted: object
) -> None:
    grade = graded(grader, text, how=how, field=field, wanted=wanted)
    assert grade.reward == 1.0, grade


def test_the_labels_and_the_verdict_are_out_of_reach(grader: Python) -> None:
    """By frames, objects and descriptors the completion finds no label and no way to be paid."""
    text = """
import gc, os, struct, sys
frame, seen = sys._getframe(), []
while frame:
    seen.append(repr(frame.f_locals))
    frame = frame.f_back
seen += [repr(one) for one in gc.get_objects() if isinstance(one, (dict, list, str, bytes))]
for descriptor in range(5, 256):
    try:
        os.write(descriptor, struct.pack('<QBIHHd', 0, 0, 0, 1, 0, 1.0))
        print('LABEL')
    except OSError:
        pass
word = ''.join(reversed('drow terces'))
print('LABEL' if any(word in one for one in seen) else 'nothing')
"""
    counted = python(
        "def grade(sample, item):\n"
        "    run = run_code(sample['output_text'])\n"
        "    assert run.ok, run.error\n"
        "    return 0.25 if 'LABEL' not in run.stdout else 1.0\n",
        wall_seconds=15.0,
    )
    assert graded(counted, text, answer=["secret word"]).reward == 0.25
    assert graded(counted, "print('LABEL')", answer=["secret word"]).reward == 1.0


def test_every_run_is_a_process_of_its_own(grader: Python) -> None:
    twice = python(
        "def grade(sample, item):\n"
        "    code = 'import re; re.n = getattr(re, \"n\", 0) + 1; print(re.n)'\n"
        "    return sum(float(run_code(code).stdout) for _ in range(3))\n",
        wall_seconds=15.0,
    )
    assert graded(twice, "").reward == 3.0
    assert graded(grader, "2", field="value", wanted=2).reward == 1.0


def test_more_calls_in_one_process_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 1 where the source uses run_code"):
        python(REPORTS, calls_per_process=2)
