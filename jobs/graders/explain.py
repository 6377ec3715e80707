"""From pydantic's findings to one sentence that the author of a grader can act on."""

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jobs.errors import GraderInvalid
from jobs.graders.base import GraderSpec

_MAX_SHOWN_CHARS = 80
_MAX_MESSAGE_CHARS = 400
# Of an endpoint: they may carry its owner's keys, and errors are kept and read by others.
_SECRETS = frozenset({"url", "headers"})


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
    path = [_shown(str(step)) for step in loc if not _is_branch(step)]
    kind = path.pop(0) if path else ""
    if path[:1] == ["graders"] and len(path) > 2:
        kind = path.pop(2)
    return path, kind


def _is_branch(step: int | str) -> bool:
    """Of a union, pydantic also says which member it tried; a user's path has no such step."""
    return isinstance(step, str) and (step.endswith(("]", "Part")) or step == "union")


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
        reason = finding["msg"].removeprefix("Input ")
        if not (kind == "endpoint" and _SECRETS.intersection(path)):
            reason += f", not {_kind_of(finding['input'])}"
    return f"{where}: {reason}" if where else f"{kind} grader: {reason}"


def _unknown_type(tag: object, where: str, types: Mapping[str, type[GraderSpec]]) -> str:
    prefix = f"{where}: " if where else ""
    if tag == "label_model":
        return prefix + "a label_model grader stands only inside a multi grader"
    if tag == "multi":
        return prefix + "a multi grader cannot hold another multi grader"
    known = ", ".join(types)
    if tag is None:
        return prefix + f"a grader needs a type, one of {known}"
    return prefix + f"unknown grader type {_shown(str(tag))!r}: the types are {known}"


def _fields_at(spec: type[GraderSpec], path: list[str]) -> list[str]:
    inner = [spec.nested[step] for step in path[:-1] if step in spec.nested]
    return list((inner[-1] if inner else spec).model_fields)


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
