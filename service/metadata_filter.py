"""`metadata[key]=value` in a list's query, as OpenAI's client sends a dictionary."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from jobs.errors import BadRequest


def metadata_filter(request: Request) -> dict[str, str] | None:
    """What jobs must carry; None (`metadata=null`): those with nothing. Raises BadRequest."""
    wanted: dict[str, str] = {}
    is_unlabelled = False
    for name, value in request.query_params.multi_items():
        if name == "metadata":
            if value != "null":
                raise BadRequest(
                    "'metadata' filters by key: send metadata[key]=value, or metadata=null for "
                    "jobs without any.",
                    param="metadata",
                )
            is_unlabelled = True
        elif name.startswith("metadata["):
            key = name.removeprefix("metadata[").removesuffix("]")
            if not name.endswith("]") or wanted.get(key, value) != value:
                raise BadRequest(
                    f"'{name}' cannot be met: each key of metadata is named once, as "
                    "metadata[key]=value.",
                    param="metadata",
                )
            wanted[key] = value
    if is_unlabelled and wanted:
        raise BadRequest(
            "'metadata' is null and names keys too: no job has none and some.", param="metadata"
        )
    return None if is_unlabelled else wanted


MetadataFilter = Annotated[dict[str, str] | None, Depends(metadata_filter)]

# For the OpenAPI document: FastAPI has no parameter of this style.
METADATA_PARAMETER: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "required": False,
            "style": "deepObject",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "description": "Only jobs that carry these labels; `metadata=null`: only those without",
        }
    ]
}
