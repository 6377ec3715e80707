"""Templates such as `{{item.answer}}`, compiled once per grader and rendered once per sample."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.graders.grade import SAMPLE_VARIABLES, GradeFailure, Sample
from jobs.graders.source import Compiled

# A few large values repeated by a long template must not fill the memory.
MAX_RENDERED_CHARS = 16_000_000

_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")
_NAMESPACE = re.compile(r"(item|sample)(?=[.\[])")
_STEP = re.compile(
    r"""\.(?P<name>[^\s.\[\]{}"']+)"""
    r"""|\[(?P<index>-?[0-9]{1,9})\]"""
    r"""|\[(?:"(?P<double>[^"]+)"|'(?P<single>[^']+)')\]"""
)
_MISSING = object()

Step = str | int


class TemplateInvalid(ValueError):
    """A template that names nothing a grader can read; the message is for its author."""


def lookup(value: Any, steps: Sequence[Step]) -> Any:
    """What lies at `steps` (object keys and array indices) inside `value`.

    Raises LookupError where the path leads nowhere.
    """
    for step in steps:
        if isinstance(step, str):
            value = value.get(step, _MISSING) if isinstance(value, Mapping) else _MISSING
        elif isinstance(value, (list, tuple)) and -len(value) <= step < len(value):
            value = value[step]
        else:
            value = _MISSING
        if value is _MISSING:
            raise LookupError(steps)
    return value


def parse_path(path: str) -> tuple[Step, ...]:
    """The steps of a path such as `meta.tags[0]`, `list[-1]` or `["a key"]`.

    Raises TemplateInvalid where the path does not read as one.
    """
    text = path if path.startswith("[") else "." + path
    steps: list[Step] = []
    position = 0
    while position < len(text):
        step = _STEP.match(text, position)
        if step is None:
            raise TemplateInvalid(f"{path!r} does not read as a path such as meta.tags[0]")
        index = step["index"]
        name = step["name"] or step["double"] or step["single"]
        steps.append(int(index) if index is not None else name)
        position = step.end()
    return tuple(steps)


def as_text(value: Any) -> str:
    """A value as a template shows it: a string as it is, anything else as compact JSON.

    Raises GradeFailure for what is not JSON (an object of Python, a structure without end).
    """
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise GradeFailure("invalid_variable_error", f"a value is not JSON: {error}") from error


class _Variable:
    """One placeholder: where its value lies, and how to say so."""

    __slots__ = ("is_item", "path", "steps")

    def __init__(self, content: str) -> None:
        name = content.strip()
        namespace = _NAMESPACE.match(name)
        if namespace is None:
            raise TemplateInvalid(
                f"{{{{{content}}}}} is not a variable: write item.<field> or sample.<variable>"
            )
        self.is_item = namespace[1] == "item"
        self.path = name[namespace.end() :].removeprefix(".")
        if not self.path:
            raise TemplateInvalid(f"{{{{{content}}}}} names no field of {namespace[1]}")
        self.steps = parse_path(self.path)
        if not self.is_item and self.steps[0] not in SAMPLE_VARIABLES:
            raise TemplateInvalid(
                f"sample.{self.steps[0]} does not exist: a sample has {', '.join(SAMPLE_VARIABLES)}"
            )

    def text(self, sample: Sample, item: Mapping[str, Any]) -> str:
        try:
            if self.is_item:
                return as_text(lookup(item, self.steps))
            value = sample.variable(str(self.steps[0]))
            return as_text(lookup(value, self.steps[1:]))
        except LookupError:
            where = f"item.{self.path}" if self.is_item else f"sample.{self.path}"
            raise GradeFailure("invalid_variable_error", f"{where} is not there") from None


class Template(Compiled):
    """A string with any number of `{{item.x}}` and `{{sample.x}}` in it.

    Values are put in once: braces inside a value stay text. Raises TemplateInvalid on
    construction. As a pydantic field it reads from a string and dumps back to the same one.
    """

    __slots__ = ("_parts", "source")

    def __init__(self, source: str) -> None:
        super().__init__(source)
        parts: list[str | _Variable] = []
        end = 0
        for placeholder in _PLACEHOLDER.finditer(source):
            parts.append(_literal(source[end : placeholder.start()]))
            parts.append(_Variable(placeholder[1]))
            end = placeholder.end()
        parts.append(_literal(source[end:]))
        self._parts = tuple(part for part in parts if part != "")

    def render(self, sample: Sample, item: Mapping[str, Any]) -> str:
        """The text for one sample and its row; raises GradeFailure where a value is missing."""
        parts = self._parts
        if len(parts) == 1:
            only = parts[0]
            return only if isinstance(only, str) else only.text(sample, item)
        texts = []
        num_chars = 0
        for part in parts:
            text = part if isinstance(part, str) else part.text(sample, item)
            num_chars += len(text)
            if num_chars > MAX_RENDERED_CHARS:
                raise GradeFailure(
                    "other_error", f"a template grew past {MAX_RENDERED_CHARS} characters"
                )
            texts.append(text)
        return "".join(texts)

    @property
    def is_fixed(self) -> bool:
        """Whether it holds no placeholder."""
        return all(isinstance(part, str) for part in self._parts)

    @property
    def reads_sample(self) -> bool:
        """Whether the answer decides what it renders to, and not the row alone."""
        return any(isinstance(part, _Variable) and not part.is_item for part in self._parts)

    @property
    def beginning(self) -> str:
        """The text before the first placeholder."""
        first = self._parts[0] if self._parts else ""
        return first if isinstance(first, str) else ""

    def item_paths(self) -> set[str]:
        """The row fields that the template reads, such as `answer` or `meta.tags[0]`."""
        variables = (part for part in self._parts if isinstance(part, _Variable))
        return {variable.path for variable in variables if variable.is_item}


def _literal(text: str) -> str:
    opened = text.find("{{")
    if opened >= 0:
        raise TemplateInvalid(
            f"{text[opened : opened + 40]!r} opens a variable and never closes it"
        )
    return text
