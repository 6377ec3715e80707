"""Whether a JSON value meets a JSON schema. Patterns in it are Python's and may never end."""

from __future__ import annotations

from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry

from jobs.graders.offload.records import Outcome


def run(*, schema: Any, value: Any = None, is_check: bool = False) -> Outcome:
    """The problem with the schema, or, unless only that is asked, 1 for a valid value and else 0.

    The dialect is the one that the schema names, else draft 2020-12. References lead nowhere but
    into the schema itself: an empty registry fetches nothing.
    """
    validator = validator_for(schema)
    try:
        validator.check_schema(schema)
    except SchemaError as error:
        place = ".".join(str(step) for step in error.absolute_path)
        return Outcome(problem=f"{place}: {error.message}" if place else error.message)
    if is_check:
        return Outcome()
    checked = validator(schema, registry=Registry(), format_checker=validator.FORMAT_CHECKER)
    return Outcome(float(checked.is_valid(value)))
