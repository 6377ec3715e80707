"""Files: uploaded as JSONL, named by the server, kept until their owner deletes them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, Response

from jobs import ids
from jobs.errors import BadRequest, UnknownField, WrongState
from jobs.models import File
from jobs.store import files
from service.auth import CurrentCaller, CurrentProject
from service.bodies import UPLOAD_SCHEMA, UploadBody
from service.dependencies import After, Artifacts, DbSession, SettingsOf
from service.idempotency import OnceOnly
from service.wire.errors import answers
from service.wire.files import FileDeleted, FileObject, Purpose, file_object
from service.wire.pages import CursorPage

router = APIRouter(prefix="/v1/files", tags=["files"])

MAX_FILENAME = 255


@router.post(
    "",
    response_model=FileObject,
    responses=answers(400, 401, 403, 413, 422),
    openapi_extra=UPLOAD_SCHEMA,
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
    purpose, filename = _purpose(upload.fields), _shown_name(upload.file.filename)
    file_id = ids.new_id(ids.FILE)
    stored = artifacts.put_upload(file_id, upload.file.file, max_bytes=settings.max_upload_bytes)
    is_made = False
    try:
        if stored.num_bytes == 0:
            raise BadRequest("The file is empty: it needs one JSON object a line.", param="file")
        repeated = once.repeated([stored.sha256, filename, purpose])
        if repeated is not None:
            return repeated
        file = File(
            id=file_id,
            project_id=caller.project_id,
            filename=filename,
            purpose=purpose,
            num_bytes=stored.num_bytes,
            sha256=stored.sha256,
        )
        answer = once.made(file_id, file_object(files.add(session, file)))
        is_made = True
        return answer
    finally:
        if not is_made:
            artifacts.delete_upload(file_id)


def _purpose(fields: dict[str, str]) -> str:
    for name in fields:
        if name.startswith("expires_after"):
            raise BadRequest(
                "'expires_after' is not available on this server: delete the file when it is no "
                "longer needed.",
                param="expires_after",
            )
        if name != "purpose":
            raise UnknownField(f"Unknown field: '{name}'.", param=name)
    purpose = fields.get("purpose")
    if purpose is None:
        raise BadRequest(
            "'purpose' is missing: send 'fine-tune'.", param="purpose", code="missing_field"
        )
    known = get_args(Purpose)
    if purpose not in known:
        raise BadRequest(
            f"'purpose' is {purpose!r}; it must be one of {', '.join(known)}.", param="purpose"
        )
    return purpose


def _shown_name(filename: str | None) -> str:
    """The client's name for the file, only ever shown: on disk a file has its id."""
    name = PurePosixPath((filename or "").replace("\\", "/")).name.replace("\0", "")
    return name[:MAX_FILENAME] or "upload"


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
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The bytes, as uploaded"},
        **answers(401, 404, 410),
    },
)
def retrieve_content(
    file_id: str, project_id: CurrentProject, session: DbSession, artifacts: Artifacts
) -> FileResponse:
    """The file's bytes, as uploaded."""
    file = files.get(session, project_id, file_id)
    path = artifacts.existing(artifacts.upload_path(file.id), what=f"file {file.id}")
    return FileResponse(
        path,
        media_type="application/octet-stream",
        filename=file.filename,
        headers={"ETag": f'"{file.sha256}"'},
    )


@router.delete("/{file_id}", responses=answers(400, 401, 403, 404))
def delete_file(
    file_id: str, project_id: CurrentProject, session: DbSession, artifacts: Artifacts
) -> FileDeleted:
    """Delete a file. Refused while a job that is not finished reads it."""
    files.get(session, project_id, file_id)
    # Removed before its users are looked for: a job made meanwhile waits for this transaction.
    files.remove(session, project_id, file_id)
    users = files.users_of(session, file_id)
    if users:
        raise WrongState(
            f"File {file_id} is in use by {', '.join(users[:3])}: wait until the job has finished, "
            "or cancel it.",
            param="id",
        )
    session.commit()
    artifacts.delete_upload(file_id)
    return FileDeleted(id=file_id)
