"""Whether two pieces of mathematics are equal, by math-verify."""

from __future__ import annotations

import logging
from typing import Any

from math_verify import parse, verify

from jobs.graders.offload.records import Outcome, bits

# It says once that its own timeouts are off; they are, on purpose.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def warm() -> None:
    """Load what the libraries load at their first use."""
    run(text=r"$\frac{1}{2}$", reference="0.5")


NO_MATHEMATICS = "the reference holds no mathematics"


def run(*, text: str = "", reference: str = "", values: list[str] | None = None) -> Outcome:
    """1 where they are equal, else 0; a problem where the reference holds no mathematics.

    With `values`, references, which of them hold none.

    The last expression of the text counts. The parent's deadline stands for math-verify's own
    timeouts, which give up on an answer without saying so.
    """
    if values is not None:
        return bits((_is_empty(_gold(value)) for value in values), NO_MATHEMATICS)
    gold = _gold(reference)
    if _is_empty(gold):
        return Outcome(problem=NO_MATHEMATICS)
    found = parse(text, parsing_timeout=None)
    is_equal = bool(found) and verify(gold, found, timeout_seconds=None)
    return Outcome(float(is_equal))


def _is_empty(gold: list[Any]) -> bool:
    """What cannot be read as mathematics is kept as a string."""
    return all(isinstance(part, str) for part in gold)


def _gold(reference: str) -> list[Any]:
    """LaTeX is only found between its signs, which references are often written without."""
    if "\\" in reference and "$" not in reference and "\\boxed" not in reference:
        return list(parse(f"${reference}$", parsing_timeout=None))
    return list(
        parse(reference, parsing_timeout=None) or parse(f"${reference}$", parsing_timeout=None)
    )
