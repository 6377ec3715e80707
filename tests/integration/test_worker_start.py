"""`python -m worker` looks at the database before it takes anything."""

import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from processes import environ, python
from servers import drop_database, made_database
from sqlalchemy import Engine
from waiting import wait_for

from service.settings import ServiceSettings

REFUSAL = "The database is at version none, this code needs"


@pytest.mark.parametrize("url", ["blank_sqlite_url", "blank_postgresql_url"])
def test_a_worker_refuses_a_database_that_was_never_migrated(
    request: pytest.FixtureRequest, url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=environ(data_dir=tmp_path, database_url=request.getfixturevalue(url)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert REFUSAL in done.stderr
    assert "run `honed migrate`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def blank_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'blank.db'}"


def test_what_a_killed_worker_left_is_removed_by_the_next(
    settings: ServiceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, of_workers = tmp_path / "tmp", settings.run_dir / "tmp"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    sign = settings.run_dir / "alive" / f"worker.{settings.worker_name}"

    def kept() -> list[Path]:
        return [*elsewhere.glob("pymp-*"), *of_workers.glob("*")]

    for end, num_left in ((signal.SIGKILL, 1), (signal.SIGTERM, 0)):
        with python(
            "worker",
            log=tmp_path / "log",
            data_dir=settings.data_dir,
            database_url=settings.sqlalchemy_url,
        ) as worker:
            wait_for(sign.exists, seconds=60, what="the worker to be ready")
            assert len(kept()) == 1, "its own, and nothing of the one before it"
            worker.send_signal(end)
            worker.wait(60)
        assert len(kept()) == num_left
        sign.unlink()


def test_a_worker_waits_for_a_database_that_is_only_away(
    postgresql_server: Engine, tmp_path: Path
) -> None:
    name, log = f"honed_late_{uuid.uuid4().hex}", tmp_path / "log"
    url = postgresql_server.url.set(database=name).render_as_string(hide_password=False)
    with python("worker", log=log, data_dir=tmp_path, database_url=url) as worker:
        wait_for(
            lambda: "does not answer, waiting for it" in log.read_text(),
            seconds=60,
            what="the worker to say that it waits",
        )
        assert worker.poll() is None
        made_database(postgresql_server, name)
        try:
            assert worker.wait(60) == 1
        finally:
            drop_database(postgresql_server, name)
    assert REFUSAL in log.read_text()
