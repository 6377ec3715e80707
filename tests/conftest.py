"""What tests share: a fresh migrated database each, a service on it, and rows to put in."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from fastapi import FastAPI
from fastapi.testclient import TestClient
from gate import Gate, gate_to
from kept import Kept, kept_by
from servers import drop_database, made_database
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from jobs.db import connect, session_factory, transaction
from jobs.schema import migrate
from jobs.store import projects
from jobs.store.projects import IssuedKey
from service.app import create_app
from service.settings import ServiceSettings

# Nor, as below, of the models that this machine has pulled; also in processes that tests start.
os.environ.pop("HF_HUB_CACHE", None)
os.environ["HF_HOME"] = "/nonexistent"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that are marked so run once on each database, or over each artifact store."""

    def varies(mark: str, fixture: str) -> bool:
        is_marked = metafunc.definition.get_closest_marker(mark) is not None
        return is_marked and fixture in metafunc.fixturenames

    databases = varies("on_both_databases", "database_url")
    stores = varies("on_both_stores", "artifacts_at")
    if databases and stores:
        # What a store does does not depend on the database.
        pairs = [("sqlite", "folder"), ("postgresql", "folder"), ("sqlite", "bucket")]
        metafunc.parametrize(("database_url", "artifacts_at"), pairs, indirect=True)
    elif databases:
        metafunc.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
    elif stores:
        metafunc.parametrize("artifacts_at", ["folder", "bucket"], indirect=True)


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
def sqlite_url(tmp_path: Path, migrated_database: Path) -> str:
    """A SQLite database of the test's own, migrated and empty."""
    path = tmp_path / "data" / "honed.db"
    path.parent.mkdir()
    shutil.copy(migrated_database, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Engine]:
    """Connections to a PostgreSQL on which tests make their databases."""
    server = servers.own_postgresql()
    if server is not None:
        server.start()
    url = server.url() if server is not None else servers.running_postgresql()
    if url is None:
        servers.missing("There is no PostgreSQL here: install it, or start one on port 5432.")
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    yield engine
    engine.dispose()
    if server is not None:
        server.remove()


@pytest.fixture
def blank_postgresql_url(postgresql_server: Engine) -> Iterator[str]:
    """A PostgreSQL database of the test's own without a table."""
    name = f"honed_blank_{uuid.uuid4().hex}"
    yield made_database(postgresql_server, name)
    drop_database(postgresql_server, name)


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: Engine) -> Iterator[str]:
    """A PostgreSQL database at this code's version, to be copied."""
    name = f"honed_template_{uuid.uuid4().hex}"
    migrate(made_database(postgresql_server, name))
    yield name
    drop_database(postgresql_server, name)


@pytest.fixture
def postgresql_url(
    tmp_path: Path, postgresql_server: Engine, postgresql_template: str
) -> Iterator[str]:
    """A PostgreSQL database of the test's own, migrated and empty."""
    (tmp_path / "data").mkdir()
    name = f"honed_{uuid.uuid4().hex}"
    yield made_database(postgresql_server, name, template=postgresql_template)
    drop_database(postgresql_server, name)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of the test's own: SQLite, unless the test is marked `on_both_databases`."""
    return str(request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url"))


@pytest.fixture(scope="session")
def object_server() -> Iterator[servers.ObjectServer]:
    """A mock of S3, which listens on a port of its own."""
    server = servers.ObjectServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def gate(object_server: servers.ObjectServer) -> Iterator[Gate]:
    """The way to the mock, which can be cut."""
    with gate_to(object_server.port) as gate:
        yield gate


@pytest.fixture
def gated_bucket(
    object_server: servers.ObjectServer, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Settings of a bucket of the test's own behind the gate."""
    for name, value in servers.CREDENTIALS.items():
        monkeypatch.setenv(name.upper(), value)
    return {**object_server.new_bucket(), "artifacts_endpoint": gate.url}


@pytest.fixture
def artifacts_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings of where artifacts are: in the data folder, unless marked `on_both_stores`."""
    if getattr(request, "param", "folder") == "folder":
        return {}
    for name, value in servers.CREDENTIALS.items():
        monkeypatch.setenv(name.upper(), value)
    server: servers.ObjectServer = request.getfixturevalue("object_server")
    return server.new_bucket()


@pytest.fixture
def kept(settings: ServiceSettings) -> Iterator[Kept]:
    """The bytes that the artifact store keeps, whichever it is, behind its back."""
    with kept_by(settings) as kept:
        yield kept


@pytest.fixture
def settings(
    tmp_path: Path, database_url: str, model_folder: Path, artifacts_at: dict[str, Any]
) -> ServiceSettings:
    """Settings of an embedded stack in a folder of its own."""
    return ServiceSettings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        model_roots=(model_folder.parent,),
        # No worker runs beside these tests.
        cancel_seconds=0.2,
        **artifacts_at,
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
