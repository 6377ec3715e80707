"""Regular expressions whose time is linear in the text, with a bound on the factor too.

RE2 never backtracks, yet its slowest engine takes time for every instruction at every byte: a
counted repetition of 1000 over 1 MB took 23 seconds. So programs and their products are bounded.
"""

import re2

from jobs.graders.grade import GradeFailure

MAX_PATTERN_CHARS = 4096
MAX_INSTRUCTIONS = 10_000
# Instructions times bytes; about 10 ns each in the slowest engine.
MAX_WORK = 300_000_000


class RegexInvalid(ValueError):
    """A pattern that RE2 does not take, or one too large; the message is for its author."""


def encoded(text: str) -> bytes:
    """UTF-8 for RE2; lone surrogates, which JSON can carry and UTF-8 cannot, become `?`."""
    return text.encode("utf-8", "replace")


class LinearRegex:
    """A compiled RE2 pattern over UTF-8. Raises RegexInvalid on construction."""

    __slots__ = ("_compiled", "_num_instructions", "groups")

    def __init__(self, pattern: str, *, max_instructions: int = MAX_INSTRUCTIONS) -> None:
        options = re2.Options()
        options.log_errors = False
        try:
            self._compiled = re2.compile(encoded(pattern), options)
        except re2.error as error:
            raise RegexInvalid(_sentence(error)) from None
        self._num_instructions = int(self._compiled.programsize)
        if self._num_instructions > max_instructions:
            raise RegexInvalid(
                f"the pattern compiles to {self._num_instructions} instructions, "
                f"more than {max_instructions}: use fewer or smaller repetitions"
            )
        self.groups = int(self._compiled.groups)

    def search(self, text: str) -> "re2._Match | None":
        """The leftmost match, on bytes, or None; raises GradeFailure where the text is too long."""
        return self._compiled.search(self._bounded(text))

    def fullmatch(self, text: str) -> "re2._Match | None":
        """As `search`, but the match must span the whole text."""
        return self._compiled.fullmatch(self._bounded(text))

    def _bounded(self, text: str) -> bytes:
        data = encoded(text)
        if len(data) * self._num_instructions > MAX_WORK:
            raise GradeFailure(
                "other_error",
                f"a text of {len(data)} bytes is too long for a pattern of "
                f"{self._num_instructions} instructions",
            )
        return data


def _sentence(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
