"""What tests share: a fresh migrated database each, a service on it, and rows to put in."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import connect, migrate, session_factory, transaction
from jobs.store import projects
from jobs.store.projects import IssuedKey
from service.app import create_app
from service.settings import ServiceSettings


@pytest.fixture(autouse=True)
def _clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test hears of the settings of whoever runs it."""
    for name in os.environ:
        if name.startswith(("HONED_", "OPENAI_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file at this code's version, to be copied: migrating each test's own is slow."""
    path = tmp_path_factory.mktemp("template") / "honed.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A base model as far as HTTP looks at it."""
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def database_url(tmp_path: Path, migrated_database: Path) -> str:
    """A database of the test's own, migrated and empty."""
    path = tmp_path / "data" / "honed.db"
    path.parent.mkdir()
    shutil.copy(migrated_database, path)
    return f"sqlite:///{path}"


@pytest.fixture
def settings(tmp_path: Path, database_url: str, model_folder: Path) -> ServiceSettings:
    """Settings of an embedded stack in a folder of its own."""
    return ServiceSettings(
        data_dir=tmp_path / "data", database_url=database_url, model_roots=(model_folder.parent,)
    )


@pytest.fixture
def engine(settings: ServiceSettings) -> Iterator[Engine]:
    engine = connect(settings.sqlalchemy_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return session_factory(engine)


@pytest.fixture
def key(sessions: sessionmaker[Session]) -> IssuedKey:
    """A key of the project `default`."""
    with transaction(sessions) as session:
        return projects.issue_key(session, projects.ensure_project(session, "default"), "test")


@pytest.fixture
def other_key(sessions: sessionmaker[Session]) -> IssuedKey:
    """A key of another project."""
    with transaction(sessions) as session:
        return projects.issue_key(session, projects.ensure_project(session, "other"), "test")


@pytest.fixture
def app(settings: ServiceSettings) -> Iterator[FastAPI]:
    app = create_app(settings)
    yield app
    app.state.resources.close()


@pytest.fixture
def client(app: FastAPI, key: IssuedKey) -> Iterator[TestClient]:
    """A client of the project `default`."""
    with TestClient(app, headers={"Authorization": f"Bearer {key.secret}"}) as client:
        yield client
