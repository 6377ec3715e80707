"""What integration tests share: a service in this process, and trainers in theirs."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker
from supervised import Script, quick
from trainer_runs import Trainers

from service.settings import ServiceSettings


@pytest.fixture
def settings(settings: ServiceSettings, request: pytest.FixtureRequest) -> ServiceSettings:
    """Where a test writes its own trainer, leases are short."""
    return quick(settings) if "trainer" in request.fixturenames else settings


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    return Script(monkeypatch, tmp_path)


@pytest.fixture
def trainers(
    client: TestClient, settings: ServiceSettings, sessions: sessionmaker[Session]
) -> Trainers:
    return Trainers(client, settings, sessions)
