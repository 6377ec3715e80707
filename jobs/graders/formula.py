"""The arithmetic of `calculate_output`: parsed by hand into a tree, never evaluated as code."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jobs.graders.grade import GradeFailure
from jobs.graders.source import Compiled

MAX_FORMULA_CHARS = 10_000
MAX_DEPTH = 50

_TOKEN = re.compile(
    r"[ \t\r\n]*(?:"
    r"(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign>[-+*/^(),])"
    r"|(?P<end>$)"
    r")"
)

# name -> (function, whether it takes several arguments)
FUNCTIONS: dict[str, tuple[Callable[..., float], bool]] = {
    "min": (min, True),
    "max": (max, True),
    "abs": (abs, False),
    "floor": (math.floor, False),
    "ceil": (math.ceil, False),
    "exp": (math.exp, False),
    "sqrt": (math.sqrt, False),
    "log": (math.log, False),
}


class FormulaInvalid(ValueError):
    """A formula that does not parse; the message names the place, counted from 1."""


@dataclass(frozen=True, slots=True)
class _Number:
    number: float

    def value(self, _: Mapping[str, float]) -> float:
        return self.number


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str

    def value(self, variables: Mapping[str, float]) -> float:
        return variables[self.name]


@dataclass(frozen=True, slots=True)
class _Chain:
    """Operands of one precedence, folded from the left, so that a long sum is not a deep tree."""

    first: "_Node"
    rest: tuple[tuple[str, "_Node"], ...]

    def value(self, variables: Mapping[str, float]) -> float:
        total = self.first.value(variables)
        for sign, node in self.rest:
            operand = node.value(variables)
            if sign == "+":
                total += operand
            elif sign == "-":
                total -= operand
            elif sign == "*":
                total *= operand
            else:
                total /= operand
        return _finite(total)


@dataclass(frozen=True, slots=True)
class _Negation:
    node: "_Node"

    def value(self, variables: Mapping[str, float]) -> float:
        return -self.node.value(variables)


@dataclass(frozen=True, slots=True)
class _Power:
    base: "_Node"
    exponent: "_Node"

    def value(self, variables: Mapping[str, float]) -> float:
        # math.pow, unlike **, has no complex results.
        return _finite(math.pow(self.base.value(variables), self.exponent.value(variables)))


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[..., float]
    arguments: tuple["_Node", ...]

    def value(self, variables: Mapping[str, float]) -> float:
        return float(self.function(*(node.value(variables) for node in self.arguments)))


_Node = _Number | _Variable | _Chain | _Negation | _Power | _Call


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise OverflowError("a result is too large")
    return value


class Formula(Compiled):
    """A compiled formula over named numbers.

    Operators + - * / and ^ (power, binds tighter than a minus before it, groups from the right),
    parentheses, and FUNCTIONS; `log` is the natural one. Raises FormulaInvalid on construction.
    As a pydantic field it reads from a string and dumps back to the same one.
    """

    __slots__ = ("root", "source", "variables")

    def __init__(self, source: str) -> None:
        parser = _Parser(source)
        super().__init__(source)
        self.root = parser.parse()
        # Each variable with the place of its first use.
        self.variables: Mapping[str, int] = parser.variables

    def evaluate(self, variables: Mapping[str, float]) -> float:
        """The value for finite numbers; raises GradeFailure where arithmetic has none."""
        try:
            return self.root.value(variables)
        except ZeroDivisionError:
            reason = "it divides by zero"
        except OverflowError:
            reason = "a result is too large"
        except ValueError:
            reason = "a log, root or power has no real value"
        named = ", ".join(f"{name} = {variables[name]:g}" for name in self.variables)
        raise GradeFailure("formula_parse_error", f"calculate_output: {reason} ({named})")


class _Parser:
    """Recursive descent: sum -> product -> negation -> power -> atom."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_FORMULA_CHARS:
            raise FormulaInvalid(
                f"the formula has {len(source)} characters, more than {MAX_FORMULA_CHARS}"
            )
        self.source = source
        self.variables: dict[str, int] = {}
        self._depth = 0
        self._end = 0
        self._advance()

    def parse(self) -> _Node:
        node = self._sum()
        if self._kind != "end":
            raise self._unexpected("an operator or the end")
        return node

    def _advance(self) -> None:
        token = _TOKEN.match(self.source, self._end)
        if token is None:
            rest = self.source[self._end :]
            self._place = self._end + len(rest) - len(rest.lstrip()) + 1
            raise FormulaInvalid(f"unknown sign {rest.lstrip()[:1]!r} at character {self._place}")
        self._kind = str(token.lastgroup)
        self._text = token[self._kind]
        self._place = token.start(self._kind) + 1
        self._end = token.end()

    def _take(self, signs: str) -> str:
        """Step over the current token if it is one of `signs`; that sign, or an empty string."""
        if self._kind != "sign" or self._text not in signs:
            return ""
        sign = self._text
        self._advance()
        return sign

    def _unexpected(self, wanted: str) -> FormulaInvalid:
        if self._kind == "end":
            return FormulaInvalid(f"the formula ends where {wanted} should be")
        return FormulaInvalid(f"{self._text!r} at character {self._place}: expected {wanted}")

    def _sum(self) -> _Node:
        return self._chain("+-", self._product)

    def _product(self) -> _Node:
        return self._chain("*/", self._negation)

    def _chain(self, signs: str, operand: Callable[[], _Node]) -> _Node:
        first = operand()
        rest = []
        while sign := self._take(signs):
            if sign == "*" and self._text == "*":
                raise FormulaInvalid(f"'**' at character {self._place - 1}: power is written ^")
            rest.append((sign, operand()))
        return _Chain(first, tuple(rest)) if rest else first

    def _negation(self) -> _Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FormulaInvalid(f"nested more than {MAX_DEPTH} deep at character {self._place}")
        node = _Negation(self._negation()) if self._take("-") else self._power()
        self._depth -= 1
        return node

    def _power(self) -> _Node:
        base = self._atom()
        return _Power(base, self._negation()) if self._take("^") else base

    def _atom(self) -> _Node:
        text, kind, place = self._text, self._kind, self._place
        if kind == "number":
            self._advance()
            if not math.isfinite(float(text)):
                raise FormulaInvalid(f"{text} at character {place} is too large a number")
            return _Number(float(text))
        if kind == "name":
            self._advance()
            if self._take("("):
                return self._call(text, place)
            self.variables.setdefault(text, place)
            return _Variable(text)
        if self._take("("):
            node = self._sum()
            self._close()
            return node
        raise self._unexpected("a number, a grader's key, a function or '('")

    def _call(self, name: str, place: int) -> _Node:
        if name not in FUNCTIONS:
            raise FormulaInvalid(
                f"unknown function {name!r} at character {place}: there are {', '.join(FUNCTIONS)}"
            )
        function, takes_several = FUNCTIONS[name]
        arguments = [self._sum()]
        while self._take(","):
            arguments.append(self._sum())
        self._close()
        if not takes_several and len(arguments) > 1:
            raise FormulaInvalid(f"{name} at character {place} takes one argument")
        if takes_several and len(arguments) == 1:
            return arguments[0]
        return _Call(function, tuple(arguments))

    def _close(self) -> None:
        if not self._take(")"):
            raise self._unexpected("')'")
