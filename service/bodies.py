"""Bodies read with a limit, and only after the key was checked.

FastAPI reads a declared body before it runs any dependency; an upload of any size would be taken
from anyone. These dependencies come after the key's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from fastapi import Depends, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from jobs import strict_json
from jobs.errors import BadRequest, BodyTooLarge
from service.auth import CurrentProject
from service.dependencies import SettingsOf
from service.wire.files import Purpose

# What multipart adds around a file: boundaries, part headers, the other fields.
MULTIPART_SLACK_BYTES = 64 * 1024


async def json_body(request: Request, project_id: CurrentProject, settings: SettingsOf) -> Any:
    """The body as JSON, whatever content type it claims. Raises BadRequest, BodyTooLarge."""
    limit = settings.max_body_bytes
    raw = bytearray()
    async for chunk in _limited(request, limit, f"The JSON body is larger than {limit:,} bytes."):
        raw += chunk
    if not raw.strip():
        raise BadRequest("The body is empty; it must be a JSON object.")
    try:
        return strict_json.loads(bytes(raw))
    except ValueError as error:
        raise BadRequest(f"The body is not JSON: {error}.", code="invalid_json") from None


@dataclass(frozen=True)
class Upload:
    """A multipart upload, spooled to disk."""

    file: UploadFile
    fields: dict[str, str]


async def upload_body(
    request: Request, project_id: CurrentProject, settings: SettingsOf
) -> AsyncIterator[Upload]:
    """The multipart form of a file upload. Raises BadRequest, BodyTooLarge."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise BadRequest(
            "A file is uploaded as multipart/form-data with the fields 'purpose' and 'file'; "
            f"this request's content type is '{kind}'."
        )
    limit = settings.max_upload_bytes
    stream = _limited(
        request,
        limit + MULTIPART_SLACK_BYTES,
        f"The file is larger than {limit:,} bytes, the limit here.",
    )
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise BadRequest(f"The multipart body cannot be read: {error.message}") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise BadRequest(
                "'file' is missing: the multipart field that holds the file.",
                param="file",
                code="missing_field",
            )
        fields = {key: value for key, value in form.items() if isinstance(value, str)}
        yield Upload(file=file, fields=fields)
    finally:
        await form.close()


async def _limited(request: Request, limit: int, sentence: str) -> AsyncGenerator[bytes, None]:
    """The body's chunks; a declared or an actual size beyond the limit raises BodyTooLarge."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(sentence)
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > limit:
            raise BodyTooLarge(sentence)
        yield chunk


JsonBody = Annotated[Any, Depends(json_body)]
UploadBody = Annotated[Upload, Depends(upload_body)]

# For the OpenAPI document: FastAPI does not see the bodies that are read above.
UPLOAD_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {"type": "string", "enum": list(get_args(Purpose))},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


def body_schema(component: str) -> dict[str, Any]:
    """The `openapi_extra` of a route whose JSON body has this schema; see service.openapi."""
    schema = {"$ref": f"#/components/schemas/{component}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
