"""What integration tests share: a service in this process, and trainers in theirs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from fastapi.testclient import TestClient
from processes import python
from sqlalchemy.orm import Session, sessionmaker
from supervised import Script, quick
from trainer_runs import Trainers
from workers import GRACE_SECONDS, Start, Worker

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


@pytest.fixture
def worker_process(settings: ServiceSettings, tmp_path: Path) -> Start:
    """Starts a worker on the test's database."""
    given = {
        "data_dir": settings.data_dir,
        "database_url": settings.sqlalchemy_url,
        "poll_seconds": 0.5,
        "model_roots": ":".join(map(str, settings.model_roots)),
    }

    @contextmanager
    def start() -> Iterator[Worker]:
        with python("worker", log=tmp_path / "log", **given) as process:
            children = []
            try:
                yield process
                children = psutil.Process(process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                pass  # it has ended in the block
            finally:
                process.terminate()
                process.wait(GRACE_SECONDS)
                psutil.wait_procs(children, timeout=10)

    return start
