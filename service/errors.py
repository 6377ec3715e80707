"""Every answer that is not a success, in the one envelope that OpenAI's clients know."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match

from jobs.db import DATABASE_AWAY
from jobs.errors import (
    BadRequest,
    HonedError,
    InvalidApiKey,
    MethodNotAllowed,
    RouteNotFound,
    Unavailable,
)
from jobs.spec import shown

logger = logging.getLogger(__name__)

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


def answer(error: HonedError) -> JSONResponse:
    """The error as a response."""
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
        headers["x-should-retry"] = "true" if error.is_passing else "false"
    if isinstance(error, InvalidApiKey):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.envelope(), status_code=error.status, headers=headers)


def install(app: FastAPI) -> None:
    """Register the handlers. What none of them takes is answered by `service.requests`."""
    app.add_exception_handler(HonedError, _honed)
    app.add_exception_handler(RequestValidationError, _invalid_parameter)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DataError, _cannot_be_stored)
    for unreachable in (*DATABASE_AWAY, PoolTimeout):
        app.add_exception_handler(unreachable, _database_away)
    app.add_exception_handler(OSError, _disk_full)


def _told(request: Request, error: HonedError) -> JSONResponse:
    """The error as the response, and its code for what is counted."""
    request.state.error_code = error.code
    return answer(error)


async def _honed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HonedError)
    return _told(request, error)


async def _invalid_parameter(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _told(request, _as_bad_request(error.errors()))


def _as_bad_request(faults: Sequence[Any]) -> BadRequest:
    """The first faulty query or path parameter, by name; bodies are checked in jobs.spec."""
    first = faults[0]
    name = str(first["loc"][-1])
    if first["type"] == "missing":
        return BadRequest(f"'{name}' is missing.", param=name, code="missing_field")
    return BadRequest(f"'{name}' is {shown(first['input'])}: {first['msg']}.", param=name)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    known = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return _told(
            request, RouteNotFound(f"Unknown request URL: {known}. See /docs for what there is.")
        )
    if error.status_code == 405:
        allowed = ", ".join(_methods(request))
        response = _told(
            request, MethodNotAllowed(f"{known} is not served; allowed here: {allowed}.")
        )
        response.headers["Allow"] = allowed
        return response
    return _told(request, BadRequest(str(error.detail)))


def _methods(request: Request) -> list[str]:
    """What the path answers to, over all routes that match it: Starlette names the first's only."""
    scope = dict(request.scope)

    def is_served(method: str) -> bool:
        asked = scope | {"method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)

    return [method for method in METHODS if is_served(method)]


async def _cannot_be_stored(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DataError)
    reason = str(error.orig).splitlines()[0]
    return _told(
        request, BadRequest(f"A value of this request can be neither found nor kept: {reason}.")
    )


async def _database_away(request: Request, error: Exception) -> JSONResponse:
    logger.error("the database does not answer: %s", error)
    return _told(
        request,
        Unavailable(
            "The database does not answer now, and what was asked for may or may not have been "
            "done. Try again in a few seconds; a creation, with the same Idempotency-Key, is made "
            "once.",
            code="database_unavailable",
        ),
    )


async def _disk_full(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    logger.error("there is no room to write: %s", error)
    return _told(
        request,
        Unavailable(
            "There is no room left where files are kept, and nothing of this request was. Try "
            "again once the operator has freed some; a creation, with the same Idempotency-Key, is "
            "made once.",
            code="storage_full",
        ),
    )
