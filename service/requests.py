"""Around every request: an id, a line of the log, a count, and an envelope if all else failed."""

from __future__ import annotations

import logging
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.errors import HonedError
from jobs.request_id import request_id as current
from service.errors import answer
from service.traffic import Traffic

logger = logging.getLogger(__name__)

# What no answer could be given to: as nginx has it.
CLIENT_LEFT = 499


class RequestLog:
    """ASGI middleware, outermost: `x-request-id`, one log line, and 500s that tell the id."""

    def __init__(self, app: ASGIApp, *, traffic: Traffic) -> None:
        self.app = app
        self.traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        named = current.set(request_id)
        status: int | None = None
        started = time.perf_counter()
        head_seconds: float | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status, head_seconds
            if message["type"] == "http.response.start":
                status, head_seconds = message["status"], time.perf_counter() - started
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.info("the client left before its body was read")
        except Exception:
            logger.exception("the request failed")
            if status is not None:
                raise  # half an answer is out: the server must break the connection
            failure = HonedError(
                "The server failed on this request; it is not the request's fault. The cause is in "
                f"the server's log under {request_id}.",
                code="internal_error",
            )
            await answer(failure)(scope, receive, send_with_id)
        finally:
            self._note(scope, status or CLIENT_LEFT, head_seconds, time.perf_counter() - started)
            current.reset(named)

    def _note(self, scope: Scope, status: int, head_seconds: float | None, seconds: float) -> None:
        method, route = scope["method"], _pattern(scope)
        self.traffic.note(
            route=route,
            method=method,
            status=status,
            code=scope.get("state", {}).get("error_code"),
            seconds=head_seconds,
        )
        # As it was sent, percent signs and all: a path may hold anything, a line's end too.
        path = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
        fields = {
            "method": method,
            "path": path,
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
        }
        job_id = scope.get("path_params", {}).get("job_id")
        if job_id is not None:
            fields["job_id"] = job_id
        logger.info(
            "%s %s %s %.1f ms", method, path, status, seconds * 1000, extra={"fields": fields}
        )


def _pattern(scope: Scope) -> str:
    """The route's path with its parameters' names; one word for what no route answers."""
    return getattr(scope.get("route"), "path", "none")
