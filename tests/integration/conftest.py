"""What integration tests share: a service in this process, and trainers in theirs."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker
from trainer_runs import Trainers

from service.settings import ServiceSettings


@pytest.fixture
def trainers(
    client: TestClient, settings: ServiceSettings, sessions: sessionmaker[Session]
) -> Trainers:
    return Trainers(client, settings, sessions)
