"""Formulas agree with Python's arithmetic and fail only by their own errors."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.graders.formula import MAX_DEPTH, Formula, FormulaInvalid
from jobs.graders.grade import GradeFailure

VALUES = {"a": 0.5, "b": 3.0, "min": 2.0}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1", 1),
        (" 0.5 * a+0.5*b ", 1.75),
        ("(a + b) / 2", 1.75),
        ("1 - 2 - 3", -4),
        ("12 / 3 / 2", 2),
        ("2 + 3 * 4", 14),
        ("2^3^2", 512),
        ("-2^2", -4),
        ("2^-1", 0.5),
        ("--3", 3),
        ("2*-3", -6),
        ("(-8)^3", -512),
        ("0^0", 1),
        (".5 + 5. + 1e-1 + 2E+1", 25.6),
        ("min(a, b, 1)", 0.5),
        ("max(a)", 0.5),
        ("min + min(min, 1)", 3),
        ("abs(-b) + floor(2.7) + ceil(2.1) + floor(-0.5)", 7),
        ("exp(0) + sqrt(9) + log(exp(2))", 6),
        ("max(0, min(1, b))", 1),
        ("1" + "+1" * 2000, 2001),
        ("(" * 49 + "a" + ")" * 49, 0.5),
    ],
)
def test_value(source: str, expected: float) -> None:
    assert Formula(source).evaluate(VALUES) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "ends where a number"),
        ("a +", "ends where a number"),
        ("(a", "ends where ')'"),
        ("a b", "'b' at character 3: expected an operator"),
        ("2a", "'a' at character 2"),
        ("a ** 2", "'**' at character 3: power is written ^"),
        ("* a", "'*' at character 1"),
        ("+a", "'+' at character 1"),
        ("a)", "')' at character 2"),
        ("a = 1", "unknown sign '=' at character 3"),
        ("a; b", "unknown sign ';' at character 2"),
        ("a.b", "unknown sign '.' at character 2"),
        ("a\u00b2", "unknown sign '\u00b2' at character 2"),
        ("a[0]", "unknown sign '['"),
        ("'x'", 'unknown sign "\'" at character 1'),
        ("1 + tan(a)", "unknown function 'tan' at character 5: there are min,"),
        ("__import__(a)", "unknown function '__import__'"),
        ("sqrt()", "')' at character 6: expected a number"),
        ("sqrt(1, 2)", "sqrt at character 1 takes one argument"),
        ("min(1,)", "')' at character 7"),
        ("1e999", "1e999 at character 1 is too large"),
        ("(" * 60 + "a" + ")" * 60, f"nested more than {MAX_DEPTH} deep"),
        ("-" * 60 + "a", f"nested more than {MAX_DEPTH} deep"),
        ("2^" * 60 + "a", f"nested more than {MAX_DEPTH} deep"),
        ("(" * 9000, f"nested more than {MAX_DEPTH} deep"),
        ("1+" * 5000 + "1", "more than 10000"),
    ],
)
def test_refused_with_its_place(source: str, message: str) -> None:
    with pytest.raises(FormulaInvalid) as error:
        Formula(source)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "source",
    [
        "1 / (b - 3)",
        "0 ^ -1",
        "(0 - 8) ^ (1 / 3)",
        "log(0)",
        "log(-b)",
        "sqrt(-1)",
        "exp(1000)",
        "10 ^ 400",
        "1e308 * 10",
        "1e308 + 1e308",
        "min(1, 1e308 * 10)",
        "1e308 * 10 - 1e308 * 10",
        "9^9^9^9",
    ],
)
def test_arithmetic_without_a_result_is_a_formula_error(source: str) -> None:
    with pytest.raises(GradeFailure) as failure:
        Formula(source).evaluate(VALUES)
    assert failure.value.flag == "formula_parse_error"


def test_variables_with_their_places() -> None:
    assert Formula("b + min(a, b)").variables == {"b": 1, "a": 9}


NUMBERS = st.floats(min_value=0, max_value=1e6).map(repr)
EXPRESSIONS = st.recursive(
    NUMBERS | st.sampled_from(["a", "b"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | st.tuples(inner, st.sampled_from("+-*/"), inner).map(" ".join)
        | inner.map(lambda e: f"-{e}")
        | st.tuples(inner, inner).map(lambda t: f"({t[0]})^({t[1]})")
        | st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        )
        | st.tuples(st.sampled_from(["abs", "floor", "ceil", "exp", "sqrt", "log"]), inner).map(
            lambda t: f"{t[0]}({t[1]})"
        )
    ),
    max_leaves=10,
)
# All floats: Python's integers would take powers exactly, and for ever.
PYTHON = {
    "__builtins__": {},
    **{name: getattr(math, name) for name in ("exp", "sqrt", "log")},
    "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)),
    "min": min,
    "max": max,
    "abs": abs,
}


@settings(deadline=None)
@given(source=EXPRESSIONS, a=st.floats(-10, 10), b=st.floats(-10, 10))
def test_agrees_with_python(source: str, a: float, b: float) -> None:
    try:
        mine = Formula(source).evaluate({"a": a, "b": b})
    except GradeFailure:
        mine = None
    try:
        theirs = eval(source.replace("^", "**"), {**PYTHON, "a": a, "b": b})
    except (ArithmeticError, TypeError, ValueError):
        theirs = None
    if mine is None:
        # Python goes on with complex and infinite intermediates; a formula stops at them.
        assert theirs is None or set("^*/") & set(source)
    else:
        assert mine == pytest.approx(theirs, rel=1e-12)


@settings(deadline=None)
@given(source=st.text(alphabet="ab01.eE+-*/^(), \nminlog\u00e9", max_size=60))
def test_any_text_parses_or_fails_by_its_own_errors(source: str) -> None:
    try:
        formula = Formula(source)
    except FormulaInvalid:
        return
    values = dict.fromkeys(formula.variables, 0.0)
    try:
        value = formula.evaluate(values)
    except GradeFailure:
        return
    assert math.isfinite(value)
