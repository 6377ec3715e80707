"""Clients that send slowly or without end, or read slowly, over a socket as they hold it."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from shutil import copy
from typing import Any

import httpx2
import pytest
from processes import python
from servers import free_port
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker
from waiting import wait_for

from jobs import ids
from jobs.artifacts import LocalStore
from jobs.db import connect, now, session_factory, transaction
from jobs.models import File, Project
from jobs.store import projects
from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings
from service.tidy import tidy

QUOTA = 1_000_000
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@dataclass(frozen=True)
class Server:
    port: int
    key: IssuedKey
    sessions: sessionmaker[Session]
    artifacts: LocalStore


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Server]:
    """A service with little patience, and a project with a quota."""
    folder = tmp_path_factory.mktemp("slow")
    copy(migrated_database, folder / "honed.db")
    settings = ServiceSettings(data_dir=folder)
    engine = connect(settings.sqlalchemy_url)
    sessions = session_factory(engine)
    with transaction(sessions) as session:
        project = projects.ensure_project(session, "default")
        key = projects.issue_key(session, project, "test")
        session.execute(update(Project).values(quota_bytes=QUOTA))
    port, log = free_port(), folder / "service.log"
    # Each byte of a body earns it a second: on a busy machine only those that stop are late.
    patience = {"body_grace_seconds": 2, "body_bytes_per_second": 1}
    with python("service.serve", log=log, data_dir=folder, port=port, **patience):
        wait_for(lambda: listens(port), seconds=60, what="the service to listen")
        yield Server(port, key, sessions, LocalStore(settings.artifacts_dir))
    engine.dispose()
    assert "Traceback" not in log.read_text()


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def post(server: Server, path: str, *headers: str, begin: bytes) -> socket.socket:
    """A request of whose body the begin is sent."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    bearer = f"Authorization: Bearer {server.key.secret}"
    lines = [f"POST {path} HTTP/1.1", "Host: honed", bearer]
    connection.sendall("\r\n".join([*lines, *headers, "", ""]).encode() + begin)
    return connection


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and error of an answer that closes the connection, or leaves it open."""
    raw = b""
    while b"}}" not in raw and (more := connection.recv(65536)):
        raw += more
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/uploads", "application/json"),
        ("/v1/files", "multipart/form-data; boundary=b"),
    ],
)
def test_a_body_that_trickles_is_not_waited_for(server: Server, path: str, kind: str) -> None:
    said = (f"Content-Type: {kind}", "Content-Length: 5000")
    with post(server, path, *said, begin=b"-") as connection:
        status, error = answer(connection)
        assert (status, error["code"]) == (408, "body_too_slow")
        assert "1 bytes of the body came" in error["message"]
        assert "in parts" in error["message"]
        wait_for(lambda: connection.recv(1) == b"", seconds=30, what="the connection's end")


def test_a_body_without_an_end_is_read_no_further_than_there_is_room(
    server: Server,
) -> None:
    chunked = ("Content-Type: multipart/form-data; boundary=b", "Transfer-Encoding: chunked")
    begin = b"%x\r\n%s\r\n" % (len(HEAD), HEAD)
    with post(server, "/v1/files", *chunked, begin=begin) as connection:
        # As much as there is room for, what multipart adds, and one chunk more: nothing else
        # comes, and the answer does not wait for it.
        chunk = b"x" * 50_000
        for _ in range((QUOTA + 64 * 1024) // len(chunk) + 1):
            connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        status, error = answer(connection)
    assert (status, error["code"]) == (403, "storage_quota_exceeded")
    assert f"0 of {QUOTA:,} bytes" in error["message"]


def test_a_body_that_says_it_is_too_large_is_not_read(server: Server) -> None:
    kind = "Content-Type: multipart/form-data; boundary=b"
    length = f"Content-Length: {2 * QUOTA}"
    with post(server, "/v1/files", kind, length, begin=b"") as connection:
        status, error = answer(connection)
    assert (status, error["code"]) == (403, "storage_quota_exceeded")


def test_a_download_that_is_under_way_is_finished_though_its_file_expires(server: Server) -> None:
    # More than the sockets between the two hold.
    content = bytes(range(256)) * (32 * 4096)
    file_id = ids.new_id(ids.FILE)
    stored = server.artifacts.put_upload(file_id, BytesIO(content), max_bytes=len(content))
    with transaction(server.sessions) as session:
        named = {"id": file_id, "filename": "a", "purpose": "fine-tune"}
        owned = {"project_id": server.key.project_id, "sha256": stored.sha256}
        session.add(File(**named, **owned, num_bytes=stored.num_bytes))
    url = f"http://127.0.0.1:{server.port}/v1/files/{file_id}/content"
    bearer = {"Authorization": f"Bearer {server.key.secret}"}
    with httpx2.stream("GET", url, headers=bearer, timeout=60) as download:
        assert download.status_code == 200
        parts = download.iter_raw()
        read = next(parts)
        with transaction(server.sessions) as session:
            session.execute(update(File).values(expires_at=now() - 1))
        tidy(server.sessions, server.artifacts)
        assert not server.artifacts.upload_path(file_id).exists()
        assert read + b"".join(parts) == content
    assert httpx2.get(url, headers=bearer).json()["error"]["code"] == "expired"
