"""The error envelope as a schema, and how routes say which statuses they answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

MEANINGS = {
    400: "The body, a field or a parameter cannot be honoured",
    401: "The API key is missing, unknown or revoked",
    403: "The key's scopes do not allow it, or the project's storage is used up",
    404: "No such object in the key's project",
    408: "The body did not come in the time that bodies have",
    410: "The bytes are no longer in the artifact store",
    413: "The body is larger than the limit",
    416: "The range lies outside the file",
    422: "The idempotency key was used for another request",
    429: "The project has as much under way as it may; Retry-After says when to try again",
    500: "The server failed; its log has the request id",
    503: "The database or another part does not answer now; Retry-After says when to try again",
}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """Sufficient by itself: `message` says what is wrong and what to do."""

    error: ErrorDetail


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer these errors; 500 and 503 any route can."""
    return {
        status: {"model": ErrorEnvelope, "description": MEANINGS[status]}
        for status in sorted({*statuses, 500, 503})
    }
