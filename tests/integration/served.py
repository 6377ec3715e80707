"""A service of its own process with a key, for tests that speak to it as users do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from processes import python
from servers import free_port
from sqlalchemy.orm import Session, sessionmaker
from waiting import wait_for

from jobs.artifacts import LocalStore
from jobs.db import connect, session_factory, transaction
from jobs.store import projects
from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings


@dataclass
class Served:
    url: str
    key: IssuedKey
    sessions: sessionmaker[Session]
    artifacts: LocalStore
    model: str
    settings: ServiceSettings


@contextmanager
def served(folder: Path, migrated_database: Path) -> Iterator[Served]:
    """A uvicorn process on a migrated database; its log must hold no traceback at the end."""
    model = folder / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    settings = ServiceSettings(data_dir=folder / "data")
    settings.data_dir.mkdir()
    shutil.copy(migrated_database, settings.data_dir / "honed.db")
    engine = connect(settings.sqlalchemy_url)
    sessions = session_factory(engine)
    with transaction(sessions) as session:
        key = projects.issue_key(session, projects.ensure_project(session, "default"), "test")
    port, log = free_port(), folder / "service.log"
    with python(
        "service.serve",
        log=log,
        data_dir=settings.data_dir,
        port=port,
        model_roots=model.parent,
    ):
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(f"{url}/readyz"), seconds=60, what="readiness")
        artifacts = LocalStore(settings.artifacts_dir)
        yield Served(f"{url}/v1", key, sessions, artifacts, str(model), settings)
    engine.dispose()
    assert "Traceback" not in log.read_text()


def _answers(url: str) -> bool:
    try:
        return bool(httpx2.get(url, timeout=5).status_code == 200)
    except httpx2.TransportError:
        return False
