"""From pydantic's findings to one sentence that the author of a grader can act on."""

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jobs.errors import GraderInvalid
from jobs.graders.base import GraderSpec
from jobs.graders.length import SoftOverlong

_MAX_SHOWN_CHARS = 80
_MAX_MESSAGE_CHARS = 400
# Types that people send and that this server knows of but does not run.
REFUSED = {
    "python": (
        "a python grader runs its author's code, and this server has no sandbox to run it in "
        "safely: use the other types, for example regex or multi"
    ),
    **{
        kind: f"the grader type {kind!r} is not available on this server yet"
        for kind in (
            "score_model",
            "label_model",
            "endpoint",
            "json_schema",
            "math",
            "reasoning_gym",
            "reward_model",
            "ruler",
        )
    },
}


def first_problem(error: ValidationError, types: Mapping[str, type[GraderSpec]]) -> GraderInvalid:
    """The most telling of the findings: a misspelt field before the one that it was to be."""
    findings = error.errors(include_url=False)
    finding = min(findings, key=lambda found: found["type"] != "extra_forbidden")
    path, kind = _place(finding["loc"])
    param = ".".join(path)
    message = _message(finding, path, kind, types)
    if finding["type"].startswith("union_tag"):
        param = f"{param}.type" if param else "type"
    return GraderInvalid(_shown(message, _MAX_MESSAGE_CHARS), param=param)


def _place(loc: tuple[int | str, ...]) -> tuple[list[str], str]:
    """The path in the definition, and the type of the grader that it lies in.

    pydantic puts each grader's type into the path as a step: ("multi", "graders", "exact",
    "regex", "pattern") is graders.exact.pattern, in a regex grader.
    """
    path = [_shown(str(step)) for step in loc]
    kind = path.pop(0) if path else ""
    if path[:1] == ["graders"] and len(path) > 2:
        kind = path.pop(2)
    return path, kind


def _message(
    finding: ErrorDetails,
    path: list[str],
    kind: str,
    types: Mapping[str, type[GraderSpec]],
) -> str:
    where = ".".join(path)
    problem = finding["type"]
    context = finding.get("ctx", {})
    if problem.startswith("union_tag"):
        return _unknown_type(context.get("tag"), where, types)
    if problem == "extra_forbidden":
        fields = ", ".join(_fields_at(types[kind], path))
        return f"{where} is not a field of the {kind} grader: the fields here are {fields}"
    if problem == "missing":
        return f"{where} is missing from the {kind} grader"
    if problem == "value_error":
        reason = str(context["error"])
    elif problem == "too_short":
        reason = "must not be empty"
    else:
        reason = finding["msg"].removeprefix("Input ") + f", not {_kind_of(finding['input'])}"
    return f"{where}: {reason}" if where else f"{kind} grader: {reason}"


def _unknown_type(tag: object, where: str, types: Mapping[str, type[GraderSpec]]) -> str:
    prefix = f"{where}: " if where else ""
    if isinstance(tag, str) and tag in REFUSED:
        return prefix + REFUSED[tag]
    if tag == "multi":
        return prefix + "a multi grader cannot hold another multi grader"
    known = ", ".join(types)
    if tag is None:
        return prefix + f"a grader needs a type, one of {known}"
    return prefix + f"unknown grader type {_shown(str(tag))!r}: the types are {known}"


def _fields_at(spec: type[BaseModel], path: list[str]) -> list[str]:
    if path[-2:-1] == ["soft_overlong"]:
        spec = SoftOverlong
    return list(spec.model_fields)


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return _shown(repr(value))


def _shown(text: str, max_chars: int = _MAX_SHOWN_CHARS) -> str:
    """Short, and encodable: JSON can carry lone surrogates that an answer cannot."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= max_chars else text[:max_chars] + "..."
