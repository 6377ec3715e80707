"""An adapter's archive over HTTP: resumable, checkable, and cached by its own sha256."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request, Response
from fastapi.responses import FileResponse

from jobs.artifacts import ADAPTER_ARCHIVE, ArtifactStore, Content
from jobs.errors import BadRequest, Gone, HonedError
from jobs.models import Checkpoint
from service.streams import streamed

ARCHIVE_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/x-tar": {}},
        "description": "A tar in PEFT's layout. `ETag` and `X-Checksum-Sha256` are its sha256",
    },
    206: {
        "content": {"application/x-tar": {}, "multipart/byteranges": {}},
        "description": "The part that `Range` asked for",
    },
    304: {"description": "`If-None-Match` names this archive"},
}

_NUMBER = r"\d{1,18}"
_RANGE = rf"({_NUMBER}-({_NUMBER})?|-{_NUMBER})"
_RANGES = re.compile(rf"bytes=\s*{_RANGE}(\s*,\s*{_RANGE})*\s*")


class RangeNotSatisfiable(HonedError):
    status = 416
    type = "invalid_request_error"
    code = "range_not_satisfiable"


def archive_response(
    request: Request, artifacts: ArtifactStore, checkpoint: Checkpoint
) -> Response:
    """The archive, a range of it, or 304. Raises Gone when its bytes are not what was published."""
    content = artifacts.content(
        f"{checkpoint.folder}/{ADAPTER_ARCHIVE}",
        what=f"the adapter of step {checkpoint.step} ({checkpoint.id})",
    )
    if content.num_bytes != checkpoint.archive_bytes:
        raise Gone(
            f"The adapter of step {checkpoint.step} ({checkpoint.id}) is damaged: it has "
            f"{content.num_bytes:,} bytes in the artifact store and was published with "
            f"{checkpoint.archive_bytes:,}."
        )
    _check_range(request.headers.get("range"), checkpoint.archive_bytes)
    etag = f'"{checkpoint.archive_sha256}"'
    headers = {"ETag": etag, "X-Checksum-Sha256": checkpoint.archive_sha256}
    if _names(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return content_response(
        request,
        content,
        media_type="application/x-tar",
        filename=f"{checkpoint.job_id}-step-{checkpoint.step}.tar",
        headers=headers,
    )


def content_response(
    request: Request,
    content: Content,
    *,
    media_type: str,
    filename: str,
    headers: dict[str, str],
) -> Response:
    """The bytes, or the range of them that is asked for."""
    if content.path is not None:
        return FileResponse(content.path, media_type=media_type, filename=filename, headers=headers)
    _check_range(request.headers.get("range"), content.num_bytes)
    return streamed(request, content, media_type=media_type, filename=filename, headers=headers)


def _names(if_none_match: str, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag in tags


def _check_range(header: str | None, num_bytes: int) -> None:
    """What the file response would refuse as plain text is refused here in the envelope."""
    if header is None:
        return
    malformed = BadRequest(f"The Range header is '{header[:80]}'; send 'bytes=<first>-<last>'.")
    if not _RANGES.fullmatch(header):
        raise malformed
    for part in header.partition("=")[2].split(","):
        first, _, last = part.strip().partition("-")
        if first and last and int(last) < int(first):
            raise malformed
        if (int(first) >= num_bytes) if first else (int(last) == 0):
            raise RangeNotSatisfiable(
                f"The Range header asks for '{header[:80]}', and there are {num_bytes:,} bytes."
            )
