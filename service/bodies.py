"""Bodies read with a limit, and only after the key was checked.

FastAPI reads a declared body before it runs any dependency; an upload of any size would be taken
from anyone. These dependencies come after the key's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from jobs import strict_json
from jobs.errors import BadRequest, BodyTooLarge, BodyTooSlow, HonedError, UnknownField
from jobs.spec import as_bad_request, shown
from jobs.store.projects import Caller
from jobs.store.uploads import MAX_PART_BYTES
from service import door
from service.auth import CurrentCaller, CurrentProject
from service.dependencies import Resources, ResourcesOf
from service.door import Allowance
from service.idempotency import may_repeat
from service.settings import ServiceSettings

Request = TypeVar("Request", bound=BaseModel)

# What multipart adds around a file: boundaries, part headers, the other fields.
MULTIPART_SLACK_BYTES = 64 * 1024

LOOK_EVERY_BYTES = 16 * 1024 * 1024


async def json_body(
    request: HttpRequest, project_id: CurrentProject, resources: ResourcesOf
) -> Any:
    """The body as JSON, whatever content type it claims.

    Raises BadRequest, BodyTooLarge, BodyTooSlow, and TooManyRequests or Overloaded.
    """
    limit = resources.settings.max_body_bytes
    refusal = BodyTooLarge(f"The JSON body is larger than {limit:,} bytes.")
    raw = bytearray()
    with resources.bodies.taken(project_id):
        async for chunk in _limited(request, resources.settings, limit, refusal):
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
    request: HttpRequest, caller: CurrentCaller, resources: ResourcesOf
) -> AsyncIterator[Upload]:
    """The multipart form of a file. Raises as `json_body` does, and what `door` refuses it with."""
    async with _form(
        request, caller, resources, "file", resources.settings.max_upload_bytes
    ) as one:
        yield one


async def part_body(
    request: HttpRequest, caller: CurrentCaller, resources: ResourcesOf
) -> AsyncIterator[Upload]:
    """The multipart form of a part of an upload. Raises as `upload_body` does."""
    async with _form(request, caller, resources, "data", MAX_PART_BYTES) as one:
        yield one


@asynccontextmanager
async def _form(
    request: HttpRequest, caller: Caller, resources: Resources, field: str, max_bytes: int
) -> AsyncIterator[Upload]:
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise BadRequest(
            f"This body must be multipart/form-data with the bytes in the field '{field}'; "
            f"the request's content type is {shown(kind)}."
        )
    with resources.bodies.taken(caller.project_id):
        allowed = await run_in_threadpool(
            _allowance, request, caller, resources, max_bytes=max_bytes, param=field
        )
        stream = _limited(
            request,
            resources.settings,
            allowed.num_bytes + MULTIPART_SLACK_BYTES,
            allowed.refusal,
            is_kept=True,
        )
        async with _parsed_form(request, stream, field) as upload:
            yield upload


def _allowance(
    request: HttpRequest, caller: Caller, resources: Resources, *, max_bytes: int, param: str
) -> Allowance:
    settings = resources.settings
    with resources.sessions() as session:
        if may_repeat(request, caller, session):
            # Its answer is kept, and no room is needed to give it once more.
            return door.whole(max_bytes, param=param)
        door.check_disk(settings, num_bytes=_declared(request))
        return door.allowance(
            session, caller.project_id, settings, max_bytes=max_bytes, param=param
        )


@asynccontextmanager
async def _parsed_form(
    request: HttpRequest, stream: AsyncGenerator[bytes, None], field: str
) -> AsyncIterator[Upload]:
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


async def _limited(
    request: HttpRequest,
    settings: ServiceSettings,
    limit: int,
    refusal: HonedError,
    *,
    is_kept: bool = False,
) -> AsyncGenerator[bytes, None]:
    """The body's chunks; of a declared or an actual size beyond the limit the refusal is raised.

    What `is_kept` goes to a disk, which is looked at again while it comes.
    """
    if _declared(request) > limit:
        raise refusal
    num_bytes = num_looked_at = 0
    async for chunk in _in_time(request, settings):
        num_bytes += len(chunk)
        if num_bytes > limit:
            raise refusal
        if is_kept and num_bytes - num_looked_at > LOOK_EVERY_BYTES:
            num_looked_at = num_bytes
            await run_in_threadpool(door.check_disk, settings)
        yield chunk


async def _in_time(request: HttpRequest, settings: ServiceSettings) -> AsyncGenerator[bytes, None]:
    """The body's chunks. Raises BodyTooSlow: who sends a byte now and then holds a place of all."""
    stream, started, num_bytes = request.stream(), time.monotonic(), 0
    grace, rate = settings.body_grace_seconds, settings.body_bytes_per_second
    while True:
        left = started + grace + num_bytes / rate - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise BodyTooSlow(
                f"{num_bytes:,} bytes of the body came in {time.monotonic() - started:.0f} "
                f"seconds; a body may take {grace:g} seconds and one more for each {rate:,} "
                "bytes. Send it again over a faster line; a large file, in parts (POST "
                "/v1/uploads)."
            ) from None
        if chunk is None:
            return
        num_bytes += len(chunk)
        yield chunk


def _declared(request: HttpRequest) -> int:
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


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
