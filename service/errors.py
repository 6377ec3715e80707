"""Every answer that is not a success, in the one envelope that OpenAI's clients know."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

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


def answer(error: HonedError) -> JSONResponse:
    """The error as a response."""
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, InvalidApiKey):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.envelope(), status_code=error.status, headers=headers)


def install(app: FastAPI) -> None:
    """Register the handlers. What none of them takes is answered by `service.requests`."""
    app.add_exception_handler(HonedError, _honed)
    app.add_exception_handler(RequestValidationError, _invalid_parameter)
    app.add_exception_handler(HTTPException, _http)
    for unreachable in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(unreachable, _database_away)


async def _honed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HonedError)
    return answer(error)


async def _invalid_parameter(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return answer(_as_bad_request(error.errors()))


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
        return answer(RouteNotFound(f"Unknown request URL: {known}. See /docs for what there is."))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        response = answer(MethodNotAllowed(f"{known} is not served; allowed here: {allowed}."))
        response.headers["Allow"] = allowed
        return response
    return answer(BadRequest(str(error.detail)))


async def _database_away(request: Request, error: Exception) -> JSONResponse:
    logger.error("the database does not answer: %s", error)
    return answer(
        Unavailable(
            "The database does not answer now; nothing was changed. Try again in a few seconds.",
            code="database_unavailable",
        )
    )
