"""Uploads in parts: a large file announced, sent piece by piece, and made whole."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from jobs import ids
from jobs.artifacts import Stored
from jobs.db import now
from jobs.errors import BadRequest
from jobs.models import File, Upload, UploadPart
from jobs.store import files, uploads
from service import door
from service.auth import CurrentCaller, CurrentProject
from service.bodies import JsonBody, PartBody, body_schema, multipart_schema, parsed
from service.dependencies import Artifacts, DbSession, SettingsOf
from service.idempotency import OnceOnly
from service.orphans import remove_bytes
from service.wire.errors import answers
from service.wire.files import file_object, shown_name
from service.wire.uploads import (
    CompleteUploadRequest,
    CreateUploadRequest,
    PartObject,
    UploadObject,
    part_object,
    upload_object,
)

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


@router.post(
    "",
    response_model=UploadObject,
    responses=answers(400, 401, 403, 408, 413, 422, 429),
    openapi_extra=body_schema(CreateUploadRequest.__name__),
)
def create_upload(
    body: JsonBody,
    caller: CurrentCaller,
    session: DbSession,
    once: OnceOnly,
    settings: SettingsOf,
) -> Response:
    """Announce a file of up to 8 GiB. Its parts may be sent for an hour."""
    request = parsed(body, CreateUploadRequest)
    repeated = once.repeated(body)
    if repeated is not None:
        return repeated
    door.check_disk(settings, num_bytes=request.bytes, is_spooled=False)
    door.check_uploads(session, caller.project_id, settings)
    door.check_storage(session, caller.project_id, settings, num_bytes=request.bytes, param="bytes")
    lives = request.expires_after
    upload = Upload(
        id=ids.new_id(ids.UPLOAD),
        project_id=caller.project_id,
        filename=shown_name(request.filename),
        purpose=request.purpose,
        num_bytes=request.bytes,
        file_lives_seconds=lives.seconds if lives else None,
        expires_at=now() + uploads.LIVES_SECONDS,
    )
    return once.made(upload.id, upload_object(uploads.add(session, upload)))


@router.post(
    "/{upload_id}/parts",
    response_model=PartObject,
    responses=answers(400, 401, 403, 404, 408, 413, 422, 429),
    openapi_extra=multipart_schema({"data": {"type": "string", "format": "binary"}}),
)
def create_part(
    upload_id: str,
    part: PartBody,
    caller: CurrentCaller,
    session: DbSession,
    once: OnceOnly,
    artifacts: Artifacts,
    settings: SettingsOf,
) -> Response:
    """Add a part of up to 64 MiB. Parts may be sent at once and in any order."""
    upload = uploads.get(session, caller.project_id, upload_id)
    uploads.check_pending(session, upload)
    session.rollback()  # no transaction stays open while bytes are copied
    part.refuse_fields()
    part_id = ids.new_id(ids.PART)
    stored = artifacts.put_part(
        upload_id, part_id, part.file.file, max_bytes=uploads.MAX_PART_BYTES
    )
    is_made = False
    try:
        if stored.num_bytes == 0:
            raise BadRequest("The part is empty.", param="data")
        repeated = once.repeated(stored.sha256)
        if repeated is not None:
            return repeated
        door.check_storage(
            session, caller.project_id, settings, num_bytes=stored.num_bytes, param="data"
        )
        row = UploadPart(id=part_id, upload_id=upload_id, num_bytes=stored.num_bytes)
        answer = once.made(part_id, part_object(uploads.add_part(session, upload, row)))
        is_made = True
        return answer
    finally:
        if not is_made:
            remove_bytes(artifacts.delete_part, upload_id, part_id)


@router.post(
    "/{upload_id}/complete",
    response_model=UploadObject,
    responses=answers(400, 401, 403, 404, 408, 410, 413, 422, 429),
    openapi_extra=body_schema(CompleteUploadRequest.__name__),
)
def complete_upload(
    upload_id: str,
    body: JsonBody,
    caller: CurrentCaller,
    session: DbSession,
    once: OnceOnly,
    artifacts: Artifacts,
    settings: SettingsOf,
) -> Response:
    """Make the file of the parts, in the order of `part_ids`; the parts are gone afterwards."""
    request = parsed(body, CompleteUploadRequest)
    upload = uploads.get(session, caller.project_id, upload_id)
    if upload.status == "completed":
        repeated = once.repeated(body)
        if repeated is not None:
            return repeated
    uploads.check_pending(session, upload)
    uploads.check_parts(session, upload, request.part_ids)
    door.check_disk(settings, num_bytes=upload.num_bytes, is_spooled=False)
    session.rollback()  # no transaction stays open while bytes are copied
    file_id = ids.new_id(ids.FILE)
    is_made = False
    try:
        stored, md5 = artifacts.join_parts(upload_id, request.part_ids, file_id)
        if request.md5 is not None and request.md5.lower() != md5:
            raise BadRequest(
                f"The parts in this order have the MD5 {md5}, not the one that was sent; send the "
                "damaged part again, or correct the order.",
                param="md5",
            )
        repeated = once.repeated(body)
        if repeated is not None:
            return repeated
        uploads.complete(session, upload)
        made = file_object(files.add(session, _file_of(upload, file_id, stored)))
        answer = once.made(file_id, upload_object(upload, made))
        is_made = True
    finally:
        if not is_made:
            remove_bytes(artifacts.delete_upload, file_id)
    remove_bytes(artifacts.delete_parts, upload_id)
    return answer


def _file_of(upload: Upload, file_id: str, stored: Stored) -> File:
    lives = upload.file_lives_seconds
    return File(
        id=file_id,
        project_id=upload.project_id,
        filename=upload.filename,
        purpose=upload.purpose,
        num_bytes=stored.num_bytes,
        sha256=stored.sha256,
        expires_at=None if lives is None else now() + float(lives),
    )


@router.post("/{upload_id}/cancel", responses=answers(400, 401, 403, 404))
def cancel_upload(
    upload_id: str, project_id: CurrentProject, session: DbSession, artifacts: Artifacts
) -> UploadObject:
    """Give an upload up: its parts are removed, and no more are taken."""
    upload = uploads.get(session, project_id, upload_id)
    uploads.cancel(session, upload)
    session.commit()
    remove_bytes(artifacts.delete_parts, upload_id)
    return upload_object(upload)
