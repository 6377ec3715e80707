"""Which numbers are rewards: numpy's as they are, and nothing that only seems to be one."""

from collections.abc import Iterator

import pytest
from sandbox_levels import at_level, graded, python

from jobs.graders import Sample

RUNTIME = "python_grader_runtime_error"


@pytest.fixture(scope="module", autouse=True)
def bwrap() -> Iterator[None]:
    with at_level("bwrap"):
        yield


def body(source: str) -> str:
    return f"def grade(sample, item):\n    {source}\n"


NUMPY = {"memory_mb": 1024, "cpu_seconds": 5.0, "wall_seconds": 15.0}


@pytest.mark.parametrize(
    ("answer", "reward"),
    [("np.float64(0.5)", 0.5), ("np.float32(0.5)", 0.5), ("np.float16(0.5)", 0.5),
     ("np.longdouble(0.5)", 0.5), ("np.int64(-3)", -3.0), ("np.uint8(7)", 7.0),
     ("np.bool_(True)", 1.0), ("np.mean([0, 1])", 0.5), ("np.clip(7, 0, 1)", 1.0),
     ("np.sum(np.ones(3))", 3.0), ("np.array(0.5)", 0.5)],
)  # fmt: skip
def test_numpys_numbers_are_rewards(answer: str, reward: float) -> None:
    pytest.importorskip("numpy")
    assert graded(
        python("import numpy as np\n" + body(f"return {answer}"), **NUMPY), ""
    ).reward == (reward)


@pytest.mark.parametrize(
    "answer",
    ["np.array([0.5, 1])", "np.array([0.5, 1], np.float32)", "[np.float64(0.5), np.int64(1)]",
     "(np.bool_(True) * 0.5, np.longdouble(1))", "np.array([0.5, True], object)"],
)  # fmt: skip
def test_numpys_arrays_and_lists_rank_a_group(answer: str) -> None:
    pytest.importorskip("numpy")
    source = f"import numpy as np\ndef grade_group(samples, item):\n    return {answer}\n"
    grades = python(source, **NUMPY).grade_group([Sample("a"), Sample("b")], {})
    assert [grade.reward for grade in grades] == [0.5, 1.0]


# Each lies about what it is; patching numpy's own names comes too late as well.
LIES = """
import numpy as np
class Lies(np.float64):
    def __float__(self): return 9.0
    def item(self): return 9.0
class Same(type):
    __eq__ = lambda self, other: True
    __hash__ = lambda self: hash(np.float64)
class Equal(metaclass=Same):
    def __float__(self): return 9.0
class Array(np.ndarray):
    def item(self): return 9.0
    def tolist(self): return [9.0]
    ndim = 0
real, np.float64, np.ndarray = np.float64, Lies, Array
"""


@pytest.mark.parametrize(
    "answer",
    ["Lies(1)", "Equal()", "Array(())", "np.array(1j)", "np.array([1.0])", "real('nan')",
     "np.float32('inf')", "np.longdouble('1e4000')", "np.timedelta64(1)", "np.array('1')",
     "np.array(Lies(1), object)"],
)  # fmt: skip
def test_what_only_seems_numpys_number_is_refused(answer: str) -> None:
    pytest.importorskip("numpy")
    group = f"def grade_group(samples, item):\n    return [{answer}] * len(samples)\n"
    grader = python(LIES + body(f"return {answer}") + group, **NUMPY)
    for grade in (graded(grader, ""), *grader.grade_group([Sample(""), Sample("")], {})):
        assert (grade.reward, grade.errors) == (None, {RUNTIME}), grade
        assert "float(...)" in grade.details[RUNTIME] or "finite number" in grade.details[RUNTIME]


@pytest.mark.parametrize("answer", ["decimal.Decimal('0.5')", "fractions.Fraction(1, 2)"])
def test_a_number_of_another_kind_is_told_the_way_out(answer: str) -> None:
    imports = "import decimal, fractions\n"
    failed = graded(python(imports + body(f"return {answer}")), "")
    assert "make another number one with float(...)" in failed.details[RUNTIME]
    assert graded(python(imports + body(f"return float({answer})")), "").reward == 0.5
