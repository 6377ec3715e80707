"""Around every request: an id in the answer and the log, and an envelope when all else failed."""

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

logger = logging.getLogger(__name__)


class RequestLog:
    """ASGI middleware, outermost: `x-request-id`, one log line, and 500s that tell the id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        named = current.set(request_id)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        started = time.perf_counter()
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
            milliseconds = (time.perf_counter() - started) * 1000
            path = scope["path"]
            logger.info("%s %s %s %.1f ms", scope["method"], path, status, milliseconds)
            current.reset(named)
