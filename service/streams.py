"""Bytes that are no file of this machine, over HTTP: whole, or the ranges that are asked for.

Answers are those of Starlette's FileResponse, which serves the files that are here.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import chain
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from jobs.artifacts import Content

# More at once than anybody needs, and each costs a request to the store.
MAX_RANGES = 100


def streamed(
    request: Request,
    content: Content,
    *,
    media_type: str,
    filename: str,
    headers: dict[str, str],
) -> Response:
    """The bytes as they are read. A Range has been checked; raises what the first read raises."""
    total = content.num_bytes
    headers = {
        **headers,
        "Accept-Ranges": "bytes",
        "Content-Disposition": _disposition(filename),
    }
    ranges = _ranges(request, total, etag=headers["ETag"])
    if not ranges:
        headers["Content-Length"] = str(total)
        body, status = content.read(0, total), 200
    elif len(ranges) == 1:
        ((first, end),) = ranges
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{total}"
        headers["Content-Length"] = str(end - first)
        body, status = content.read(first, end - first), 206
    else:
        boundary = secrets.token_hex(13)
        heads = [_head(boundary, one, total, media_type) for one in ranges]
        num_bytes = sum(end - first for first, end in ranges) + sum(len(head) + 2 for head in heads)
        headers["Content-Length"] = str(num_bytes + len(boundary) + 4)
        body, status = _parts(content, ranges, heads, boundary), 206
        media_type = f"multipart/byteranges; boundary={boundary}"
    # What cannot be read at all is an error, not a body that breaks off.
    body = chain([next(body, b"")], body)
    return StreamingResponse(body, status_code=status, media_type=media_type, headers=headers)


def _ranges(request: Request, total: int, *, etag: str) -> list[tuple[int, int]]:
    """What is asked for, from each first byte to behind the last; overlapping ones as one."""
    header, condition = request.headers.get("range"), request.headers.get("if-range")
    if header is None or condition not in (None, etag):
        return []
    asked = []
    for part in header.partition("=")[2].split(","):
        first, _, last = part.strip().partition("-")
        if not first:
            asked.append((max(total - int(last), 0), total))
        else:
            asked.append((int(first), min(int(last) + 1, total) if last else total))
    if len(asked) > MAX_RANGES:
        return []
    found: list[tuple[int, int]] = []
    for first_byte, end in sorted(asked):
        if found and first_byte <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first_byte, end))
    return found


def _head(boundary: str, one: tuple[int, int], total: int, media_type: str) -> bytes:
    first, end = one
    return (
        f"--{boundary}\r\nContent-Type: {media_type}\r\n"
        f"Content-Range: bytes {first}-{end - 1}/{total}\r\n\r\n"
    ).encode("latin-1")


def _parts(
    content: Content, ranges: list[tuple[int, int]], heads: list[bytes], boundary: str
) -> Iterator[bytes]:
    for head, (first, end) in zip(heads, ranges, strict=True):
        yield head
        yield from content.read(first, end - first)
        yield b"\r\n"
    yield f"--{boundary}--".encode("latin-1")


def _disposition(filename: str) -> str:
    quoted = quote(filename)
    if quoted != filename:
        return f"attachment; filename*=utf-8''{quoted}"
    return f'attachment; filename="{filename}"'
