"""Reward definitions: one module a type, its spec and its function together."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter, ValidationError

from jobs.errors import GraderInvalid
from jobs.graders.base import GraderSpec
from jobs.graders.explain import first_problem
from jobs.graders.grade import ERROR_FLAGS, ErrorFlag, Grade, Sample
from jobs.graders.label_model import LabelModel
from jobs.graders.means import BARE, Means
from jobs.graders.multi import Multi, SingleGrader

__all__ = [
    "ERROR_FLAGS",
    "GRADER_TYPES",
    "ErrorFlag",
    "Grade",
    "GraderInvalid",
    "GraderSpec",
    "Means",
    "Sample",
    "grader_json_schema",
    "parse_grader",
]

# Every type that runs here, by the word that names it in a definition.
GRADER_TYPES: Mapping[str, type[GraderSpec]] = {
    get_args(spec.model_fields["type"].annotation)[0]: spec
    for spec in (*get_args(SingleGrader), LabelModel, Multi)
}
_adapter: TypeAdapter[SingleGrader | Multi] = TypeAdapter(
    Annotated[SingleGrader | Multi, Field(discriminator="type")]
)


def parse_grader(definition: object, means: Means = BARE) -> GraderSpec:
    """The grader that a JSON object defines, bound to its means; raises GraderInvalid.

    A type that lacks what it needs (a judge, models) is refused here.

    Its `param` is the fault's dotted path inside the definition (`graders.exact.operation`), empty
    for the definition as a whole.
    """
    if not isinstance(definition, dict):
        raise GraderInvalid("a grader is a JSON object with a type", param="")
    try:
        grader = _adapter.validate_python(definition, context=means)
        json.dumps(grader.dump(), ensure_ascii=False).encode()
    except ValidationError as error:
        raise first_problem(error, GRADER_TYPES) from None
    except UnicodeEncodeError:
        raise GraderInvalid(
            "the grader holds half a surrogate pair, which is no text", param=""
        ) from None
    return grader


def grader_json_schema() -> dict[str, Any]:
    """The JSON schema of every definition that `parse_grader` takes."""
    return _adapter.json_schema()
