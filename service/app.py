"""The HTTP application: routes, errors and what they share, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service import errors
from service.dependencies import Resources
from service.openapi import document
from service.requests import RequestLog
from service.routes import (
    capabilities,
    chat,
    checkpoints,
    events,
    files,
    graders,
    health,
    jobs,
    metrics,
    models,
    monitoring,
    permissions,
    uploads,
)
from service.settings import ServiceSettings

ROUTERS = (
    files,
    uploads,
    jobs,
    events,
    metrics,
    checkpoints,
    permissions,
    graders,
    models,
    chat,
    capabilities,
    health,
    monitoring,
)

DESCRIPTION = """\
GRPO training as a service. The shapes are OpenAI's fine-tuning API; what it does not have sits
under the same nouns. Every `/v1` route needs an API key, and every error is
`{"error": {"message", "type", "param", "code"}}`.
"""


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """The application, with its settings from the environment unless given."""
    resources = Resources.open(settings or ServiceSettings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        writing = asyncio.create_task(resources.traffic.keep_written(resources.sessions))
        yield
        writing.cancel()
        await asyncio.wait([writing])
        await resources.traffic.try_to_write(resources.sessions)
        await resources.aclose()

    app = FastAPI(
        title="Honed",
        version=version("honed"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.resources = resources
    errors.install(app)
    app.add_middleware(RequestLog, traffic=resources.traffic)
    for module in ROUTERS:
        app.include_router(module.router)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app
