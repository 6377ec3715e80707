"""Bodies read with a limit, and only after the key was checked.

FastAPI reads a declared body before it runs any dependency; an upload of any size would be taken
from anyone. These dependencies come after the key's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from jobs import strict_json
from jobs.errors import BadRequest, BodyTooLarge, UnknownField
from jobs.spec import as_bad_request, shown
from jobs.store.uploads import MAX_PART_BYTES
from service.auth import CurrentProject
from service.dependencies import SettingsOf

Request = TypeVar("Request", bound=BaseModel)

# What multipart adds around a file: boundaries, part headers, the other fields.
MULTIPART_SLACK_BYTES = 64 * 1024


async def json_body(request: HttpRequest, project_id: CurrentProject, settings: SettingsOf) -> Any:
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


def parsed(body: object, model: type[Request]) -> Request:
    """The body as the model has it. Raises BadRequest or UnknownField that names the field."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise as_bad_request(error, model) from None


@dataclass(frozen=True)
class Upload:
    """A multipart body: its file, spooled to disk, and its other fields."""

    file: UploadFile
    fields: dict[str, str]

    def refuse_fields(self, *known: str) -> None:
        """Raise UnknownField for a field that nothing reads."""
        for name in self.fields:
            if name not in known:
                raise UnknownField(f"Unknown field: '{name}'.", param=name)


async def upload_body(
    request: HttpRequest, project_id: CurrentProject, settings: SettingsOf
) -> AsyncIterator[Upload]:
    """The multipart form of a file. Raises BadRequest, BodyTooLarge."""
    async with _form(request, "file", settings.max_upload_bytes) as upload:
        yield upload


async def part_body(request: HttpRequest, project_id: CurrentProject) -> AsyncIterator[Upload]:
    """The multipart form of a part of an upload. Raises BadRequest, BodyTooLarge."""
    async with _form(request, "data", MAX_PART_BYTES) as upload:
        yield upload


@asynccontextmanager
async def _form(request: HttpRequest, field: str, limit: int) -> AsyncIterator[Upload]:
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise BadRequest(
            f"This body must be multipart/form-data with the bytes in the field '{field}'; "
            f"the request's content type is {shown(kind)}."
        )
    stream = _limited(
        request,
        limit + MULTIPART_SLACK_BYTES,
        f"'{field}' is larger than {limit:,} bytes, the limit here.",
    )
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise BadRequest(f"The multipart body cannot be read: {error.message}") from None
    try:
        file = form.get(field)
        if not isinstance(file, UploadFile):
            raise BadRequest(
                f"'{field}' is missing: the multipart field that holds the bytes.",
                param=field,
                code="missing_field",
            )
        fields = {key: value for key, value in form.items() if isinstance(value, str)}
        yield Upload(file=file, fields=fields)
    finally:
        await form.close()


async def _limited(request: HttpRequest, limit: int, sentence: str) -> AsyncGenerator[bytes, None]:
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
PartBody = Annotated[Upload, Depends(part_body)]


# For the OpenAPI document: FastAPI does not see the bodies that are read above.
def multipart_schema(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    """The `openapi_extra` of a route whose body is a multipart form."""
    schema = {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def body_schema(*components: str) -> dict[str, Any]:
    """The `openapi_extra` of a route whose JSON body has one of these; see service.openapi."""
    schemas = [{"$ref": f"#/components/schemas/{component}"} for component in components]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
