"""What each grader weighs in a formula that is a weighted sum, and whether it is one."""

from collections.abc import Mapping

from jobs.graders.formula import Formula, _Chain, _Negation, _Node, _Number, _Variable

CONSTANT = ""  # The key of what no grader contributes; it is no grader's name.


def weights_of(formula: Formula) -> dict[str, float] | None:
    """Return each variable's weight, or None when the formula is not a weighted sum of them.

    A constant added to it is left out: it moves every reward alike.
    """
    linear = _linear(formula.root)
    if linear is None:
        return None
    return {name: weight for name, weight in linear.items() if name != CONSTANT and weight}


def _linear(node: _Node) -> dict[str, float] | None:
    match node:
        case _Number():
            return {CONSTANT: node.number}
        case _Variable():
            return {node.name: 1.0}
        case _Negation():
            return _scaled(_linear(node.node), -1.0)
        case _Chain():
            total = _linear(node.first)
            for sign, operand in node.rest:
                total = _joined(total, sign, _linear(operand))
            return total
    return None


def _joined(
    left: dict[str, float] | None, sign: str, right: dict[str, float] | None
) -> dict[str, float] | None:
    if left is None or right is None:
        return None
    if sign in "+-":
        names = dict.fromkeys([*left, *right])
        factor = 1.0 if sign == "+" else -1.0
        return {name: left.get(name, 0.0) + factor * right.get(name, 0.0) for name in names}
    if _is_number(right):
        factor = right.get(CONSTANT, 0.0)
        if sign == "*":
            return _scaled(left, factor)
        return _scaled(left, 1 / factor) if factor else None
    if sign == "*" and _is_number(left):
        return _scaled(right, left.get(CONSTANT, 0.0))
    return None


def _is_number(linear: Mapping[str, float]) -> bool:
    return all(name == CONSTANT for name in linear)


def _scaled(linear: dict[str, float] | None, factor: float) -> dict[str, float] | None:
    return linear and {name: weight * factor for name, weight in linear.items()}
