"""json_schema: is the answer JSON, and of the form that a schema gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from jobs import strict_json
from jobs.graders.base import OUTPUT_TEXT
from jobs.graders.grade import Sample
from jobs.graders.means import means_of
from jobs.graders.offload.pool import OffloadFailed, OffloadTimeout
from jobs.graders.offloaded import OffloadedGrader
from jobs.graders.template import Template

SECONDS = 5.0
MAX_SCHEMA_CHARS = 100_000


class JsonSchema(OffloadedGrader):
    """Reward 1 where the input is one JSON value that meets the schema, else 0.

    The dialect is what `$schema` names, else draft 2020-12; `$ref` leads into the schema only.
    """

    type: Literal["json_schema"]
    input: Template = OUTPUT_TEXT
    # JSON's own `schema` is a method of pydantic's models.
    json_schema: dict[str, Any]

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if len(json.dumps(schema)) > MAX_SCHEMA_CHARS:
            raise ValueError(f"the schema is longer than {MAX_SCHEMA_CHARS:,} characters")
        try:
            found = means_of(info).offload.call(
                "schema", seconds=SECONDS, schema=schema, is_check=True
            )
        except (OffloadFailed, OffloadTimeout) as error:
            raise ValueError(f"the schema could not be checked: {error}") from None
        if found.problem:
            raise ValueError(f"it is not a JSON schema: {found.problem}")
        return schema

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """1.0 or 0.0."""
        text = self.input.render(sample, item)
        try:
            value = strict_json.loads(text.encode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            return 0.0
        found = self.run_offloaded("schema", seconds=SECONDS, schema=self.json_schema, value=value)
        return found.score
