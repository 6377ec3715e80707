"""Templates and formulas under texts nobody would write: refused with their own error, or right."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.graders.formula import Formula, FormulaInvalid
from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.template import Template, TemplateInvalid

NAMES = st.text("abcxyz_", min_size=1, max_size=4).filter(
    lambda name: name not in {"abs", "min", "max", "exp", "log", "sqrt", "ceil", "floor"}
)
NUMBERS = st.floats(-100, 100, allow_nan=False).map(lambda number: round(number, 3))


def written(tree: Any) -> str:
    """A tree as a formula, with all its parentheses."""
    match tree:
        case float():
            return f"({tree!r})"
        case str():
            return tree
        case (sign, left, right):
            return f"({written(left)} {sign} {written(right)})"
        case (name, [*arguments]):
            return f"{name}({', '.join(written(one) for one in arguments)})"
    raise AssertionError(tree)


def value(tree: Any, variables: dict[str, float]) -> float:
    """What it comes to, by Python's own arithmetic."""
    match tree:
        case float():
            return tree
        case str():
            return variables[tree]
        case (sign, left, right):
            a, b = value(left, variables), value(right, variables)
            return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b,
                    "/": lambda: a / b, "^": lambda: math.pow(a, b)}[sign]()  # fmt: skip
        case (name, [*arguments]):
            numbers = [value(one, variables) for one in arguments]
            functions: dict[str, Any] = {"min": min, "max": max, "abs": abs, **vars(math)}
            return float(functions[name](*numbers))
    raise AssertionError(tree)


def names_in(tree: Any) -> set[str]:
    match tree:
        case str():
            return {tree}
        case (_, left, right):
            return names_in(left) | names_in(right)
        case (_, [*arguments]):
            return set().union(*map(names_in, arguments))
    return set()


def tried(work: Callable[[], Any], expected: type[Exception]) -> Any:
    """What it returns, or the error that it may raise; any other goes through."""
    try:
        return work()
    except expected as error:
        return error


def grown(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(children, min_size=2, max_size=3)
    one = st.lists(children, min_size=1, max_size=1)
    return (
        st.tuples(st.sampled_from("+-*/^"), children, children)
        | st.tuples(st.sampled_from(["min", "max"]), some)
        | st.tuples(st.sampled_from(["abs", "floor", "ceil", "exp", "sqrt", "log"]), one)
    )


TREES = st.recursive(NAMES | NUMBERS, grown, max_leaves=12)


@given(TREES, st.data())
def test_a_formula_is_worth_what_python_says(tree: Any, data: st.DataObject) -> None:
    variables = {name: data.draw(NUMBERS) for name in sorted(names_in(tree))}
    formula = Formula(written(tree))
    assert set(formula.variables) == names_in(tree)
    try:
        expected = value(tree, variables)
    except (ArithmeticError, ValueError):
        expected = math.nan
    if math.isfinite(expected):
        assert formula.evaluate(variables) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    else:
        with pytest.raises(GradeFailure) as failed:
            formula.evaluate(variables)
        assert failed.value.flag == "formula_parse_error"


@given(st.text("ab01.e+-*/^(), minlogx_", max_size=60) | st.text(max_size=60))
@example("(" * 500)
@example("-" * 500 + "1")
@example("2^" * 500 + "2")
def test_any_text_is_a_formula_or_refused(text: str) -> None:
    formula = tried(lambda: Formula(text), FormulaInvalid)
    if isinstance(formula, FormulaInvalid):
        assert str(formula)
        return
    variables = dict.fromkeys(formula.variables, 2.0)
    result = tried(lambda: formula.evaluate(variables), GradeFailure)
    if isinstance(result, GradeFailure):
        assert result.flag == "formula_parse_error"
    else:
        assert math.isfinite(result)


KEYS = st.text("abc_", min_size=1, max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(KEYS, children, max_size=3),
    max_leaves=12,
)  # fmt: skip


def paths_in(data: Any, prefix: str) -> list[tuple[str, Any]]:
    """Every path that leads somewhere, with what is there."""
    found = [(prefix, data)]
    if isinstance(data, dict):
        for key, inner in data.items():
            found += paths_in(inner, f"{prefix}.{key}")
    if isinstance(data, list):
        for index, inner in enumerate(data):
            found += paths_in(inner, f"{prefix}[{index}]")
            found += paths_in(inner, f"{prefix}[{index - len(data)}]")
    return found


@given(st.dictionaries(KEYS, JSON, min_size=1, max_size=3), st.data())
def test_every_path_of_a_row_renders_as_what_is_there(
    item: dict[str, Any], data: st.DataObject
) -> None:
    paths = paths_in(item, "item")[1:]
    path, inside = data.draw(st.sampled_from(paths))
    shown = Template("<{{ " + path + " }}>").render(Sample("x"), item)
    if isinstance(inside, str):
        assert shown == f"<{inside}>"
    else:
        assert json.loads(shown[1:-1]) == inside
    with pytest.raises(GradeFailure) as failed:
        Template("{{" + path + ".nowhere}}").render(Sample("x"), item)
    assert failed.value.flag == "invalid_variable_error"


@given(st.text("{}item.sample[0]\"' x", max_size=40) | st.text(max_size=40))
@settings(max_examples=300)
def test_any_text_is_a_template_or_refused(text: str) -> None:
    template = tried(lambda: Template(text), TemplateInvalid)
    if isinstance(template, TemplateInvalid):
        assert str(template)
        return
    shown = tried(lambda: template.render(Sample("x"), {"x": {"0": [1]}}), GradeFailure)
    if isinstance(shown, GradeFailure):
        assert shown.flag in ("invalid_variable_error", "sample_parse_error")
    else:
        assert isinstance(shown, str)


@given(st.text(max_size=50))
def test_an_answer_is_put_in_once_whatever_it_holds(answer: str) -> None:
    text = Template("a{{sample.output_text}}b{{item.x}}").render(Sample(answer), {"x": answer})
    assert text == f"a{answer}b{answer}"
