"""The lines of an answer: something is always said, and what was taken is always let go."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from jobs.artifacts import LocalStore
from jobs.errors import Unavailable
from jobs.serving import ChatTask, Failed, Served
from worker.serving import app
from worker.serving.app import Serving
from worker.serving.engine import BROKEN, Engine
from worker.serving.generation import Generation
from worker.serving.hosted import HostedModel

TASK = ChatTask(
    model=Served(name="talker", base={"name": "talker"}),
    messages=[{"role": "user", "content": "What is 2 + 3?"}],
)


class Slow:
    """Hosting whose model loads until it is told that it has."""

    def __init__(self, model: HostedModel) -> None:
        self.loads = threading.Event()
        self.is_loaded = threading.Event()
        self.model = model
        self.num_users = 0

    def take(self, kind: Any, served: Served) -> HostedModel:
        self.loads.set()
        assert self.is_loaded.wait(20)
        self.num_users += 1
        return self.model

    def release(self, model: HostedModel) -> None:
        self.num_users -= 1


def request() -> Request:
    body = TASK.model_dump_json().encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    headers = [(b"authorization", b"Bearer t"), (b"x-request-id", b"req_1")]
    return Request({"type": "http", "method": "POST", "path": "/chat", "headers": headers}, receive)


def serving(hosting: Any, engine: Any, folder: Path) -> Serving:
    return Serving("t", hosting, engine, LocalStore(folder), SimpleNamespace())  # type: ignore[arg-type]


def test_who_leaves_while_a_model_loads_leaves_it_released(
    model: HostedModel, engine: Engine, tmp_path: Path
) -> None:
    hosting = Slow(model)

    async def left() -> None:
        response = await serving(hosting, engine, tmp_path).chat(request())

        async def receive() -> dict[str, Any]:
            await asyncio.to_thread(hosting.loads.wait, 20)
            asyncio.get_running_loop().call_later(0.1, hosting.is_loaded.set)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        await response({"type": "http"}, receive, send)

    asyncio.run(left())
    assert hosting.is_loaded.is_set()
    assert hosting.num_users == 0


def test_a_token_that_comes_after_the_server_has_ended_harms_nobody(
    model: HostedModel, tmp_path: Path
) -> None:
    class Late:
        """An engine that is at a token for as long as the server lives."""

        def submit(self, generation: Generation) -> None:
            self.generation = generation

        def cancel(self, generation: Generation) -> None:
            pass

    late, hosting = Late(), Slow(model)
    hosting.is_loaded.set()

    async def left() -> None:
        response = await serving(hosting, late, tmp_path).chat(request())

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        await response({"type": "http"}, receive, send)

    asyncio.run(left())
    assert hosting.num_users == 0
    late.generation.emit(BROKEN)


def test_while_a_model_loads_it_says_that_it_lives(
    model: HostedModel, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "KEEP_ALIVE_SECONDS", 0.02)
    hosting = Slow(model)
    lines: list[bytes] = []

    async def answered() -> None:
        response = await serving(hosting, engine, tmp_path).chat(request())

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            lines.append(message.get("body", b""))
            if lines.count(b"\n") == 3:
                hosting.is_loaded.set()

        await response({"type": "http"}, receive, send)

    asyncio.run(answered())
    told = [line for line in lines if line.strip()]
    assert b'"started"' in told[0]
    assert b'"finished"' in told[-1]


def test_a_refusal_tells_when_to_come_again(engine: Engine, tmp_path: Path) -> None:
    class Full:
        def take(self, kind: Any, served: Served) -> None:
            refusal = Unavailable("There is no room.", code="model_does_not_fit")
            refusal.retry_after_seconds = 30
            raise refusal

    async def first_line() -> Any:
        response = await serving(Full(), engine, tmp_path).chat(request())
        return await anext(response.body_iterator)

    failed = Failed.model_validate_json(asyncio.run(first_line()))
    assert (failed.status, failed.error["code"]) == (503, "model_does_not_fit")
    assert failed.retry_after_seconds == 30
