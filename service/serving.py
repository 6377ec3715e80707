"""The service's end of the serving process: asks it, hears it, says why when it is away."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
from pydantic import TypeAdapter

from jobs.errors import BadRequest, Gone, HonedError, ModelNotFound, Unavailable
from jobs.request_id import REQUEST_ID_HEADER, request_id
from jobs.serving import (
    CHAT_PATH,
    SILENCE_SECONDS,
    Address,
    ChatTask,
    Failed,
    Record,
    address,
    want,
)
from service.settings import ServiceSettings

CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.25
# Nobody here can start a process that is elsewhere: it is back in a moment, or its operator's.
ELSEWHERE_SECONDS = 10.0
_record: TypeAdapter[Record] = TypeAdapter(Record)


class ServingAway(Unavailable):
    """Nothing answers chat now."""

    code = "serving_unavailable"
    # About what the process takes to start.
    retry_after_seconds = 8


def client_options(settings: ServiceSettings) -> dict[str, Any]:
    """For the one client that all requests of a process share.

    No connection is kept: the process may start anew between two requests. Without https no
    certificates are read, which takes longer than a short answer.
    """
    return {
        "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        "verify": settings.serving_url.startswith("https:"),
        "trust_env": False,
    }


def headers(where: Address) -> dict[str, str]:
    """What every request to the process carries: the token, and whose request it answers."""
    return {"Authorization": f"Bearer {where.token}", REQUEST_ID_HEADER: request_id.get()}


@asynccontextmanager
async def ask(
    settings: ServiceSettings, client: httpx2.AsyncClient, task: ChatTask
) -> AsyncIterator[AsyncIterator[Record]]:
    """The records of the answer, `Started` first; leaving the block early ends the generation.

    Where nothing serves yet it is asked for and awaited: the openai package's own retries are over
    in seconds. Raises what the serving process refuses the task with, and ServingAway when there is
    none after that.
    """
    response = await _answered(settings, client, task)
    try:
        if response.status_code != 200:
            await response.aread()
            raise _refused(settings, response)
        yield _records(response)
    finally:
        await response.aclose()


async def _answered(
    settings: ServiceSettings, client: httpx2.AsyncClient, task: ChatTask
) -> httpx2.Response:
    give_up_at = time.monotonic() + patience(settings)
    while True:
        try:
            response = await _sent(settings, client, task)
        except httpx2.TransportError as error:
            # Only what certainly did not reach it is sent again.
            has_begun = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            if has_begun or time.monotonic() > give_up_at:
                raise away(settings) from None
        else:
            # With an address of its own making, a 401 means that it has just started anew.
            is_anew = response.status_code == 401 and not settings.serving_url
            if not is_anew or time.monotonic() > give_up_at:
                return response
            await response.aclose()
        await anyio.sleep(POLL_SECONDS)


async def _sent(
    settings: ServiceSettings, client: httpx2.AsyncClient, task: ChatTask
) -> httpx2.Response:
    where = address(settings)
    if where is None:
        # `honed up` looks for it.
        want(settings)
        raise httpx2.ConnectError("nothing serves here yet")
    request = client.build_request(
        "POST",
        f"{where.url}{CHAT_PATH}",
        content=task.model_dump_json().encode(),
        headers=headers(where),
        timeout=httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
    )
    return await client.send(request, stream=True)


async def _records(response: httpx2.Response) -> AsyncIterator[Record]:
    try:
        async for line in _lines(response):
            if not line:
                continue
            record = _record.validate_json(line)
            if isinstance(record, Failed):
                raise _as_error(
                    record.status, record.error, retry_after_seconds=record.retry_after_seconds
                )
            yield record
    except httpx2.ReadTimeout:
        raise ServingAway(
            f"The serving process said nothing for {SILENCE_SECONDS:g} seconds: it hangs. "
            "`honed up` starts it anew; try again in a minute."
        ) from None
    except httpx2.TransportError:
        raise ServingAway(
            "The serving process ended in the middle of this answer; it starts again, try again "
            "in a few seconds."
        ) from None


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """What newlines end: texts may hold other ends of a line, such as U+2028, as they are."""
    rest = b""
    async for part in response.aiter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line


def patience(settings: ServiceSettings) -> float:
    """Seconds that a request waits for the process to start."""
    seconds = settings.serving_start_seconds
    return min(seconds, ELSEWHERE_SECONDS) if settings.serving_url else seconds


def away(settings: ServiceSettings) -> ServingAway:
    """Why nobody answers, and who can change that."""
    if settings.serving_url:
        return ServingAway(
            f"The serving process at {settings.serving_url} does not answer; try again in a few "
            "seconds. If this lasts, its operator starts it with `python -m worker.serve`."
        )
    return ServingAway(
        "The process that runs models does not answer yet; try again in a few seconds. If this "
        "lasts, its log says why; outside of `honed up` it is started with "
        "`python -m worker.serve`."
    )


def _refused(settings: ServiceSettings, response: httpx2.Response) -> HonedError:
    if response.status_code == 401:
        return ServingAway(
            "The serving process does not know this service's HONED_SERVING_TOKEN: the operator "
            "gives both the same."
            if settings.serving_url
            else "The process that answers chat has just started anew; try again in a moment."
        )
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": f"The serving process answered {response.status_code}, without words."}
    retry_after = response.headers.get("retry-after")
    return _as_error(
        response.status_code,
        error,
        retry_after_seconds=int(retry_after) if retry_after else None,
    )


def _as_error(status: int, error: dict[str, Any], *, retry_after_seconds: int | None) -> HonedError:
    if status == 404:
        return ModelNotFound(error["message"])
    kind = {400: BadRequest, 410: Gone, 503: Unavailable}.get(status, HonedError)
    refused = kind(error["message"], param=error.get("param"), code=error.get("code"))
    if isinstance(refused, Unavailable) and retry_after_seconds is not None:
        refused.retry_after_seconds = retry_after_seconds
    return refused
