"""Files: uploaded as JSONL, named by the server, kept until their owner deletes them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from jobs import ids
from jobs.db import now
from jobs.errors import BadRequest, WrongState
from jobs.models import File
from jobs.spec import shown
from jobs.store import files
from service.auth import CurrentCaller, CurrentProject
from service.bodies import UploadBody, multipart_schema, parsed
from service.dependencies import After, Artifacts, DbSession, SettingsOf, let_go
from service.downloads import content_response
from service.idempotency import OnceOnly
from service.orphans import remove_bytes
from service.wire.errors import answers
from service.wire.expiry import ExpiresAfter
from service.wire.files import FileDeleted, FileObject, Purpose, file_object, shown_name
from service.wire.pages import CursorPage

router = APIRouter(prefix="/v1/files", tags=["files"])

EXPIRY_FIELDS = ("expires_after[anchor]", "expires_after[seconds]")


class Expiring(BaseModel):
    """What a multipart form says of a file's end."""

    expires_after: ExpiresAfter


FORM = multipart_schema(
    {
        "purpose": {"type": "string", "enum": list(get_args(Purpose))},
        "file": {"type": "string", "format": "binary"},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
    },
    *EXPIRY_FIELDS,
)


@router.post(
    "",
    response_model=FileObject,
    responses=answers(400, 401, 403, 413, 422),
    openapi_extra=FORM,
)
def create_file(
    upload: UploadBody,
    caller: CurrentCaller,
    session: DbSession,
    once: OnceOnly,
    artifacts: Artifacts,
    settings: SettingsOf,
) -> Response:
    """Upload a file. Its rows are checked when a job is made of it."""
    upload.refuse_fields("purpose", *EXPIRY_FIELDS)
    purpose, filename = _purpose(upload.fields), shown_name(upload.file.filename)
    lives = _lives_seconds(upload.fields)
    file_id = ids.new_id(ids.FILE)
    stored = artifacts.put_upload(file_id, upload.file.file, max_bytes=settings.max_upload_bytes)
    is_made = False
    try:
        if stored.num_bytes == 0:
            raise BadRequest("The file is empty: it needs one JSON object a line.", param="file")
        repeated = once.repeated([stored.sha256, filename, purpose, lives])
        if repeated is not None:
            return repeated
        file = File(
            id=file_id,
            project_id=caller.project_id,
            filename=filename,
            purpose=purpose,
            num_bytes=stored.num_bytes,
            sha256=stored.sha256,
            expires_at=None if lives is None else now() + float(lives),
        )
        answer = once.made(file_id, file_object(files.add(session, file)))
        is_made = True
        return answer
    finally:
        if not is_made:
            remove_bytes(artifacts.delete_upload, file_id)


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose")
    if purpose is None:
        raise BadRequest(
            "'purpose' is missing: send 'fine-tune'.", param="purpose", code="missing_field"
        )
    known = get_args(Purpose)
    if purpose not in known:
        raise BadRequest(
            f"'purpose' is {shown(purpose)}; it must be one of {', '.join(known)}.", param="purpose"
        )
    return purpose


def _lives_seconds(fields: dict[str, str]) -> int | None:
    """`expires_after[anchor]` and `expires_after[seconds]`, as OpenAI's client sends an object."""
    sent = {
        name.removeprefix("expires_after[").removesuffix("]"): value
        for name, value in fields.items()
        if name in EXPIRY_FIELDS
    }
    if not sent:
        return None
    return parsed({"expires_after": sent}, Expiring).expires_after.seconds


@router.get("", responses=answers(400, 401, 404))
def list_files(
    project_id: CurrentProject,
    session: DbSession,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> CursorPage[FileObject]:
    """The project's files, newest first unless `order=asc`."""
    found = files.list_page(
        session,
        project_id,
        after=after,
        limit=limit,
        newest_first=order == "desc",
        purpose=purpose,
    )
    return CursorPage[FileObject].of(
        [file_object(file) for file in found.rows], has_more=found.has_more
    )


@router.get("/{file_id}", responses=answers(401, 404))
def retrieve_file(file_id: str, project_id: CurrentProject, session: DbSession) -> FileObject:
    return file_object(files.get(session, project_id, file_id))


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The bytes, as uploaded"},
        **answers(401, 404, 410),
    },
)
def retrieve_content(
    request: Request,
    file_id: str,
    project_id: CurrentProject,
    session: DbSession,
    artifacts: Artifacts,
) -> Response:
    """The file's bytes, as uploaded."""
    file = files.get(session, project_id, file_id)
    let_go(session, file)
    content = artifacts.content(f"files/{file.id}", what=f"file {file.id}")
    return content_response(
        request,
        content,
        media_type="application/octet-stream",
        filename=file.filename,
        headers={"ETag": f'"{file.sha256}"'},
    )


@router.delete("/{file_id}", responses=answers(400, 401, 403, 404))
def delete_file(
    file_id: str, project_id: CurrentProject, session: DbSession, artifacts: Artifacts
) -> FileDeleted:
    """Delete a file. Refused while a job that is not finished reads it."""
    users = files.remove_unused(session, files.get(session, project_id, file_id))
    if users:
        raise WrongState(
            f"File {file_id} is in use by {', '.join(users[:3])}: wait until the job has finished, "
            "or cancel it.",
            param="id",
        )
    session.commit()
    remove_bytes(artifacts.delete_upload, file_id)
    return FileDeleted(id=file_id)
