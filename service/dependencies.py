"""What routes are given: settings, a session, the artifact store, the doorbell, page limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import httpx2
from fastapi import Depends, Query, Request
from pydantic import AfterValidator
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.db import connect, session_factory
from jobs.graders import Means
from jobs.graders.sandbox import pools
from jobs.graders.settings import GraderSettings
from service import serving
from service.doorbell import Doorbell
from service.grader_models import ServingModels
from service.monitoring import Monitoring
from service.settings import ServiceSettings
from service.traffic import Traffic
from service.turns import Turns


@dataclass(frozen=True)
class Resources:
    """What one process of the service holds for its lifetime."""

    settings: ServiceSettings
    engine: Engine
    sessions: sessionmaker[Session]
    artifacts: ArtifactStore
    doorbell: Doorbell
    means: Means
    """What graders may use: judges, endpoints, worker processes."""
    models: ServingModels
    serving: httpx2.AsyncClient
    """What chat asks the serving process with."""
    monitoring: Monitoring
    """What `/metrics` shows."""
    traffic: Traffic
    """What requests came to."""
    turns: Turns = field(default_factory=Turns)
    """Who is trying graders out."""

    @classmethod
    def open(cls, settings: ServiceSettings) -> Resources:
        engine = connect(settings.sqlalchemy_url)
        models = ServingModels(settings)
        sessions, traffic = session_factory(engine), Traffic()
        return cls(
            settings=settings,
            engine=engine,
            sessions=sessions,
            artifacts=ArtifactStore(settings.artifacts_dir),
            doorbell=Doorbell(settings),
            means=Means.of(
                GraderSettings(),
                models=models,
                max_retries=1,
                max_seconds=60.0,
            ),
            models=models,
            serving=httpx2.AsyncClient(**serving.client_options(settings)),
            monitoring=Monitoring(settings, sessions, traffic),
            traffic=traffic,
        )

    async def aclose(self) -> None:
        """`close`, for the event loop that chat was answered in."""
        await self.serving.aclose()
        self.close()

    def close(self) -> None:
        self.means.close()
        self.models.close()
        self.doorbell.close()
        pools.close_all()
        self.engine.dispose()


def get_resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


def get_session(resources: Annotated[Resources, Depends(get_resources)]) -> Iterator[Session]:
    """A session that ends before the response is sent. Routes that write commit it themselves."""
    with resources.sessions() as session:
        yield session


def get_settings(resources: Annotated[Resources, Depends(get_resources)]) -> ServiceSettings:
    return resources.settings


def get_artifacts(resources: Annotated[Resources, Depends(get_resources)]) -> ArtifactStore:
    return resources.artifacts


def get_means(resources: Annotated[Resources, Depends(get_resources)]) -> Means:
    return resources.means


def get_turns(resources: Annotated[Resources, Depends(get_resources)]) -> Turns:
    return resources.turns


def get_doorbell(resources: Annotated[Resources, Depends(get_resources)]) -> Doorbell:
    return resources.doorbell


# With FastAPI's default scope the code after `yield` runs once the response is out.
DbSession = Annotated[Session, Depends(get_session, scope="function")]
SettingsOf = Annotated[ServiceSettings, Depends(get_settings)]
Artifacts = Annotated[ArtifactStore, Depends(get_artifacts)]
MeansOf = Annotated[Means, Depends(get_means)]
TurnsOf = Annotated[Turns, Depends(get_turns)]
Bell = Annotated[Doorbell, Depends(get_doorbell)]

After = Annotated[str | None, Query(description="The id after which the page begins.")]

MAX_PAGE = 100

# More than a page holds is no error: `has_more` says that there is more.
Limit = Annotated[
    int,
    Query(ge=1, description=f"Items of a page; above {MAX_PAGE} as {MAX_PAGE}."),
    AfterValidator(lambda limit: min(limit, MAX_PAGE)),
]
