"""PostgreSQL, Redis and a mock of S3 as processes of the tests' own, stopped and started at will.

Where there are no binaries, a PostgreSQL on the standard port is used; where there is neither, the
test is skipped with a sentence, or fails under `CI=true`.
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import boto3
import psycopg
import pytest
from sqlalchemy import Engine, text

START_SECONDS = 30.0

# Any will do for the mock; in the environment, where boto3 looks for them.
CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


def missing(sentence: str) -> NoReturn:
    """Skip the test, or fail it where everything is expected to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server process in a folder of its own; `start` after `stop` finds what it had kept."""

    def __init__(self, command: list[str], *, folder: Path, answers: Callable[[], bool]) -> None:
        self.command = command
        self.folder = folder
        self.answers = answers
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "server.log").read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a crash would for its clients: connections are cut."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder)


class PostgreSQL(Server):
    """A cluster without passwords or syncs, reached over loopback only."""

    def __init__(self, binaries: Path) -> None:
        user = "postgres" if os.geteuid() == 0 else None
        # Not under pytest's folder, which only its owner may enter.
        folder = Path(tempfile.mkdtemp(prefix="honed-postgresql-"))
        if user is not None:
            shutil.chown(folder, user)  # the server refuses to run as root
        self.port = free_port()
        options = ["-A", "trust", "-U", "honed", "-E", "UTF8", "--locale=C", "--no-sync"]
        cluster = folder / "cluster"
        made = subprocess.run(
            [*_as_user(user), str(binaries / "initdb"), "-D", str(cluster), *options],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        assert made.returncode == 0, made.stderr
        configured = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": folder,
            "fsync": "off",
            "max_connections": 100,
        }
        settings = [
            part for name, value in configured.items() for part in ("-c", f"{name}={value}")
        ]
        super().__init__(
            [*_as_user(user), str(binaries / "postgres"), "-D", str(cluster), *settings],
            folder=folder,
            answers=self._answers,
        )

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://honed@127.0.0.1:{self.port}/{database}"

    def _answers(self) -> bool:
        try:
            psycopg.connect(
                host="127.0.0.1", port=self.port, user="honed", dbname="postgres", connect_timeout=2
            ).close()
        except psycopg.OperationalError:
            return False
        return True


class Redis(Server):
    """A Redis that keeps nothing on disk."""

    def __init__(self, binary: str) -> None:
        folder = Path(tempfile.mkdtemp(prefix="honed-redis-"))
        self.port = free_port()
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir"]
        super().__init__(
            [*_as_user(None), binary, *options, str(folder)], folder=folder, answers=self._answers
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def flush(self) -> None:
        """Forget every message."""
        with _redis().Redis(port=self.port) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with _redis().Redis(port=self.port) as client:
                return bool(client.ping())
        except _redis().ConnectionError:
            return False


class ObjectServer(Server):
    """Moto's S3: a mock, which speaks the protocol over HTTP and keeps objects in its memory."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="honed-objects-"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        super().__init__([*_as_user(None), *command], folder=folder, answers=self._answers)

    def new_bucket(self) -> dict[str, str]:
        """Settings that name a prefix in an empty bucket of its own."""
        name = f"honed-{uuid.uuid4().hex}"
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=name)
        return {
            "artifacts_url": f"s3://{name}/team/a",
            "artifacts_endpoint": self.url,
            "artifacts_region": "us-east-1",
        }

    def client(self) -> Any:
        """A client of the test's own."""
        return boto3.session.Session().client(
            "s3", endpoint_url=self.url, region_name="us-east-1", **CREDENTIALS
        )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False


def own_postgresql() -> PostgreSQL | None:
    """A new server, started; None where its binaries are not installed."""
    found = shutil.which("initdb", path=_postgresql_path())
    return PostgreSQL(Path(found).resolve().parent) if found and shutil.which("setpriv") else None


def own_redis() -> Redis | None:
    """A new server; None where its binary is not installed."""
    found = shutil.which("redis-server")
    return Redis(found) if found and shutil.which("setpriv") else None


def running_postgresql() -> str | None:
    """The URL of a PostgreSQL on the standard port in which databases may be made."""
    for user in (os.environ.get("PGUSER"), getpass.getuser(), "postgres"):
        if user is None:
            continue
        try:
            psycopg.connect(
                host="127.0.0.1", user=user, dbname="postgres", connect_timeout=2
            ).close()
        except psycopg.OperationalError:
            continue
        return f"postgresql+psycopg://{user}@127.0.0.1:5432/postgres"
    return None


def made_database(server: Engine, name: str, *, template: str = "template1") -> str:
    """The URL of a new database."""
    with server.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    return server.url.set(database=name).render_as_string(hide_password=False)


def drop_database(server: Engine, name: str) -> None:
    with server.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))


def _postgresql_path() -> str:
    """Debian keeps the server's own programs out of PATH, a folder a version."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return os.pathsep.join([*map(str, debian), os.environ.get("PATH", "")])


def _as_user(user: str | None) -> list[str]:
    """A prefix that changes the user and ends the command with the tests, however they end."""
    change = [f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    return ["setpriv", *change, "--pdeathsig", "INT", "--"]


def _redis() -> Any:
    """The client, imported by those that ask: other tests also run where it cannot be."""
    import redis  # noqa: PLC0415

    return redis
