"""The serving process over HTTP: a chat task in, JSON lines out. For the service, not for users."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from jobs.artifacts import ArtifactStore
from jobs.errors import BadRequest, HonedError, InvalidApiKey, Unavailable
from jobs.graders.grade import GradeFailure
from jobs.request_id import NO_REQUEST, REQUEST_ID_HEADER, request_id
from jobs.serving import (
    CHAT_PATH,
    EMBED_PATH,
    KEEP_ALIVE_SECONDS,
    LIVE_PATH,
    SCORE_PATH,
    ChatTask,
    Delta,
    EmbedTask,
    Failed,
    Finished,
    ScoreTask,
    Served,
    Started,
)
from worker.serving.engine import BROKEN, Engine
from worker.serving.generation import Adapter, Generation, generation_of
from worker.serving.hosted import HostedModel
from worker.serving.hosting import Hosting
from worker.serving.local_models import LocalModels

log = logging.getLogger(__name__)

TIDY_SECONDS = 2.0

Event = Delta | Finished | HonedError
Task = TypeVar("Task", ScoreTask, EmbedTask)


@dataclass(frozen=True)
class Serving:
    """What the process holds for its lifetime."""

    token: str
    hosting: Hosting
    engine: Engine
    artifacts: ArtifactStore
    models: LocalModels

    async def live(self, request: Request) -> Response:
        """The process answers, and how many answers are under way."""
        return _refusal(self, request) or JSONResponse(
            {"num_open": sum(model.num_users for model in self.hosting.loaded)}
        )

    async def chat(self, request: Request) -> Response:
        """Answer a `ChatTask`: `Started`, then deltas and ends as they come."""
        if refusal := _refusal(self, request):
            return refusal
        try:
            task = ChatTask.model_validate_json(await request.body())
        except ValidationError as error:
            return _answer(_disagree(error))
        request_id.set(request.headers.get(REQUEST_ID_HEADER, NO_REQUEST))
        held, events = AsyncExitStack(), asyncio.Queue[Event]()
        beginning = asyncio.create_task(self._begun(task, held, events))
        # Also when the client leaves while a model loads: what is taken is released.
        held.push_async_callback(_settled, beginning)
        lines = _lines(beginning, events, num_choices=task.sampling.n)
        return _Streaming(lines, held, media_type="application/jsonl")

    async def _begun(
        self, task: ChatTask, held: AsyncExitStack, events: asyncio.Queue[Event]
    ) -> Started:
        model = await run_in_threadpool(self.hosting.take, HostedModel, task.model)
        held.callback(self.hosting.release, model)
        emit = _emitter(asyncio.get_running_loop(), events)
        adapter = await run_in_threadpool(self._adapter, task.model)
        generation = await run_in_threadpool(
            partial(generation_of, task, model, adapter=adapter, emit=emit)
        )
        self.engine.submit(generation)
        held.callback(self.engine.cancel, generation)
        log.info("%s is asked with %d tokens", task.model.name, len(generation.prompt_ids))
        return Started(
            prompt_tokens=len(generation.prompt_ids), fingerprint=_fingerprint(generation)
        )

    def _adapter(self, served: Served) -> Adapter | None:
        if served.adapter_id is None or served.adapter_folder is None:
            return None
        return Adapter(served.adapter_id, self.artifacts.adapter(served.adapter_folder))

    async def score(self, request: Request) -> Response:
        """Answer a `ScoreTask` with a list of numbers."""
        return await self._graded(
            request, ScoreTask, lambda task: self.models.score(task.model, task.conversations)
        )

    async def embed(self, request: Request) -> Response:
        """Answer an `EmbedTask` with a list of vectors."""
        return await self._graded(request, EmbedTask, lambda task: self.models.embed(task.texts))

    async def _graded(
        self, request: Request, kind: type[Task], answer: Callable[[Task], list[Any]]
    ) -> Response:
        if refusal := _refusal(self, request):
            return refusal
        request_id.set(request.headers.get(REQUEST_ID_HEADER, NO_REQUEST))
        try:
            task = kind.model_validate_json(await request.body())
            return JSONResponse(await run_in_threadpool(answer, task))
        except ValidationError as error:
            return _answer(_disagree(error))
        except GradeFailure as failure:
            return _answer(Unavailable(failure.detail, code=failure.flag))


class _Streaming(StreamingResponse):
    """A stream that lets go of what it holds when it ends, sent whole or not."""

    def __init__(self, lines: AsyncIterator[str], held: AsyncExitStack, *, media_type: str) -> None:
        super().__init__(lines, media_type=media_type)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


def _emitter(
    loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event]
) -> Callable[[Event], None]:
    """Puts what the engine's thread says into the queue, which only the loop itself may touch."""

    def emit(event: Event) -> None:
        try:
            loop.call_soon_threadsafe(events.put_nowait, event)
        except RuntimeError:
            # The server ended while the engine was at a token: nobody is left to hear of it, and
            # the engine's thread must not die of that.
            if not loop.is_closed():
                raise

    return emit


async def _settled(beginning: asyncio.Task[Started]) -> None:
    await asyncio.wait({beginning})
    if not beginning.cancelled():
        beginning.exception()  # told to the client, or of interest to nobody


async def _lines(
    beginning: asyncio.Task[Started], events: asyncio.Queue[Event], *, num_choices: int
) -> AsyncIterator[str]:
    """The lines of an answer, with empty ones while there is nothing to tell."""
    while not (await asyncio.wait({beginning}, timeout=KEEP_ALIVE_SECONDS))[0]:
        yield "\n"
    try:
        started = beginning.result()
    except HonedError as error:
        yield _failed(error)
        return
    except Exception:
        log.exception("a request could not be begun")
        yield _failed(BROKEN)
        return
    yield started.model_dump_json() + "\n"
    num_open = num_choices
    while num_open:
        try:
            event = await asyncio.wait_for(events.get(), KEEP_ALIVE_SECONDS)
        except TimeoutError:
            yield "\n"
            continue
        if isinstance(event, HonedError):
            yield _failed(event)
            return
        num_open -= isinstance(event, Finished)
        yield event.model_dump_json() + "\n"


def _failed(error: HonedError) -> str:
    retry_after = error.retry_after_seconds if isinstance(error, Unavailable) else None
    failed = Failed(
        status=error.status, error=error.envelope()["error"], retry_after_seconds=retry_after
    )
    return failed.model_dump_json() + "\n"


def _fingerprint(generation: Generation) -> str:
    """What stays the same as long as the same seed gives the same answer."""
    parts = (
        version("honed"),
        version("torch"),
        str(generation.model.device),
        str(generation.model.folder),
        generation.adapter_name,
    )
    return f"fp_{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def _disagree(error: ValidationError) -> HonedError:
    return BadRequest(f"Service and serving process do not agree: {error}")


def _refusal(serving: Serving, request: Request) -> Response | None:
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    if hmac.compare_digest(sent.encode(), serving.token.encode()):
        return None
    return _answer(InvalidApiKey("This process answers the service only."))


def _answer(error: HonedError) -> Response:
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    return JSONResponse(error.envelope(), status_code=error.status, headers=headers)


def create_app(serving: Serving) -> Starlette:
    """The application; its engine ends with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_tidy(serving.hosting))
        yield
        tidying.cancel()
        await run_in_threadpool(serving.engine.close)

    return Starlette(
        routes=[
            Route(CHAT_PATH, serving.chat, methods=["POST"]),
            Route(SCORE_PATH, serving.score, methods=["POST"]),
            Route(EMBED_PATH, serving.embed, methods=["POST"]),
            Route(LIVE_PATH, serving.live, methods=["GET"]),
        ],
        lifespan=lifespan,
    )


async def _tidy(hosting: Hosting) -> None:
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        try:
            await run_in_threadpool(hosting.tidy)
        except Exception:
            log.exception("idle models could not be unloaded; trying again")
