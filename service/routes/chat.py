"""Chat with base models, finished jobs and checkpoints, as OpenAI's clients do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from jobs.errors import HonedError
from jobs.registry import find_model
from jobs.serving import ChatTask, Sampling, Served, Started
from jobs.store import tuned_models
from service import serving
from service.auth import CurrentProject
from service.bodies import JsonBody, body_schema, parsed
from service.chat import chunks, whole
from service.dependencies import Resources, get_resources
from service.wire.chat import ChatRequest
from service.wire.completions import ChatCompletion
from service.wire.errors import answers

router = APIRouter(prefix="/v1/chat/completions", tags=["chat"])

STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


@router.post(
    "",
    response_model=ChatCompletion,
    responses={
        200: {"content": STREAM, "description": "The answer; with `stream`, its chunks as events"},
        **answers(400, 401, 403, 404, 408, 410, 413, 429),
    },
    openapi_extra=body_schema(ChatRequest.__name__),
)
async def create_chat_completion(
    request: Request,
    body: JsonBody,
    project_id: CurrentProject,
    resources: Annotated[Resources, Depends(get_resources)],
) -> Any:
    """Answer messages. A `503` with `Retry-After` says that the models are not up yet."""
    asked = parsed(body, ChatRequest)
    served = await run_in_threadpool(_served, asked.model, project_id, resources)
    task = _task(asked, served)
    async with AsyncExitStack() as held:
        held.enter_context(resources.chats.taken(project_id))
        records = await held.enter_async_context(
            serving.ask(resources.settings, resources.serving, task)
        )
        started = await anext(records)
        assert isinstance(started, Started)
        if not asked.stream:
            answer = whole(
                started,
                records,
                model=asked.model,
                n=task.sampling.n,
                has_logprobs=bool(asked.logprobs),
            )
            return await _unless_gone(request, answer)
        has_usage = asked.stream_options is not None and asked.stream_options.include_usage
        events = chunks(started, records, model=asked.model, n=task.sampling.n, has_usage=has_usage)
        return _Events(events, held.pop_all())


class _Events(StreamingResponse):
    """Chunks as they come. Whether they are read to the end or not, the generation ends with it."""

    def __init__(self, events: AsyncIterator[str], held: AsyncExitStack) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _unless_gone(
    request: Request, answer: Coroutine[Any, Any, ChatCompletion]
) -> ChatCompletion:
    """The answer, unless the client leaves before it is whole: then nobody waits for it."""
    result: ChatCompletion | HonedError | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            result = await answer
        except HonedError as error:
            result = error  # raised in here, the group would wrap it
        group.cancel_scope.cancel()
    if result is None:
        raise ClientDisconnect
    if isinstance(result, HonedError):
        raise result
    return result


def _served(name: str, project_id: str, resources: Resources) -> Served:
    """The model of that name, as far as this project sees it. Raises ModelNotFound, BadRequest."""
    # Some clients write names in bodies as they stand in addresses.
    name = name.replace("%2F", "/").replace("%2f", "/")
    if not name.startswith("ft:"):
        return Served(name=name, base={"name": find_model(name, resources.settings).name})
    with resources.sessions() as session:
        tuned = tuned_models.find(session, project_id, name)
        return Served(
            name=name,
            base=tuned.job.resolved["model"],
            adapter_id=tuned.checkpoint.id,
            adapter_folder=tuned.checkpoint.folder,
        )


def _task(asked: ChatRequest, served: Served) -> ChatTask:
    messages = [message.for_template() for message in asked.messages]
    if asked.response_format is not None:
        messages = asked.response_format.told(messages)
    has_tools = bool(asked.tools) and asked.tool_choice != "none"
    return ChatTask(
        model=served,
        messages=messages,
        tools=[tool.model_dump(exclude_none=True) for tool in asked.tools or []]
        if has_tools
        else None,
        reasoning_effort=asked.reasoning_effort,
        sampling=Sampling(
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            n=asked.n or 1,
            stop=asked.stops,
            seed=asked.seed,
            top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        ),
    )
