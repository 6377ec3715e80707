"""What routes are given: settings, a session, the artifact store, the doorbell, page limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.db import connect, session_factory
from service.doorbell import Doorbell
from service.settings import ServiceSettings


@dataclass(frozen=True)
class Resources:
    """What one process of the service holds for its lifetime."""

    settings: ServiceSettings
    engine: Engine
    sessions: sessionmaker[Session]
    artifacts: ArtifactStore
    doorbell: Doorbell

    @classmethod
    def open(cls, settings: ServiceSettings) -> Resources:
        engine = connect(settings.sqlalchemy_url)
        return cls(
            settings=settings,
            engine=engine,
            sessions=session_factory(engine),
            artifacts=ArtifactStore(settings.artifacts_dir),
            doorbell=Doorbell(settings),
        )

    def close(self) -> None:
        self.doorbell.close()
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


def get_doorbell(resources: Annotated[Resources, Depends(get_resources)]) -> Doorbell:
    return resources.doorbell


# With FastAPI's default scope the code after `yield` runs once the response is out.
DbSession = Annotated[Session, Depends(get_session, scope="function")]
SettingsOf = Annotated[ServiceSettings, Depends(get_settings)]
Artifacts = Annotated[ArtifactStore, Depends(get_artifacts)]
Bell = Annotated[Doorbell, Depends(get_doorbell)]

After = Annotated[str | None, Query(description="The id after which the page begins.")]
