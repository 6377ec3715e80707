"""`honed doctor` on databases, brokers, artifacts and disks that are really broken."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from broken import assert_broken, with_url
from servers import CREDENTIALS, ObjectServer, free_port
from sqlalchemy import Engine, text

from jobs.artifacts import local
from jobs.schema import migrate
from service.doctor import stores
from service.settings import ServiceSettings


class TestDatabase:
    def test_a_server_that_is_stopped(self, settings: ServiceSettings) -> None:
        url = f"postgresql://honed:hush@127.0.0.1:{free_port()}/honed"
        finding = stores.database(with_url(settings, url))
        assert_broken(finding, "does not answer", "HONED_DATABASE_URL")
        assert "hush" not in str(finding)

    def test_what_is_no_url(self, settings: ServiceSettings) -> None:
        finding = stores.database(with_url(settings, "my database"))
        assert_broken(finding, "no database's URL", "postgresql://")

    def test_one_that_cannot_be_written(
        self, settings: ServiceSettings, blank_postgresql_url: str
    ) -> None:
        migrate(blank_postgresql_url)
        url = f"{blank_postgresql_url}?options=-c%20default_transaction_read_only%3Don"
        assert_broken(stores.database(with_url(settings, url)), "read-only", "primary server")

    @pytest.mark.on_both_databases
    def test_one_of_another_version(self, settings: ServiceSettings, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert_broken(stores.database(settings), "migrated by a newer Honed", "same version")


class TestBroker:
    def test_a_server_that_is_stopped(self, settings: ServiceSettings) -> None:
        url = f"redis://:hush@127.0.0.1:{free_port()}/0"
        finding = stores.broker(settings.model_copy(update={"broker_url": url}))
        assert_broken(finding, "refused", "HONED_BROKER_URL")
        assert "hush" not in str(finding)

    def test_what_is_no_broker(self, settings: ServiceSettings) -> None:
        finding = stores.broker(settings.model_copy(update={"broker_url": "carrier-pigeon://"}))
        assert_broken(finding, "carrier-pigeon", "redis://")

    def test_a_file_in_its_folders_place(self, settings: ServiceSettings) -> None:
        settings.broker_dir.write_text("")
        assert_broken(stores.broker(settings), str(settings.broker_dir), "write")


class TestBucket:
    @pytest.fixture
    def settings(
        self,
        settings: ServiceSettings,
        object_server: ObjectServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> ServiceSettings:
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name.upper(), value)
        return settings.model_copy(update=object_server.new_bucket())

    def test_one_that_works(self, settings: ServiceSettings) -> None:
        finding = stores.artifact_store(settings)
        assert (finding.status, finding.mend) == ("ok", None)
        assert settings.artifacts_url in finding.found

    def test_one_that_nobody_made(self, settings: ServiceSettings) -> None:
        wrong = settings.model_copy(update={"artifacts_url": "s3://of-nobody/a"})
        assert_broken(stores.artifact_store(wrong), "no such bucket", "HONED_ARTIFACTS_URL")

    def test_a_server_that_is_stopped(self, settings: ServiceSettings) -> None:
        nowhere = f"http://127.0.0.1:{free_port()}"
        stopped = settings.model_copy(update={"artifacts_endpoint": nowhere})
        assert_broken(stores.artifact_store(stopped), "no connection", "HONED_ARTIFACTS_URL")


class TestArtifacts:
    def test_a_file_in_its_folders_place(self, settings: ServiceSettings) -> None:
        settings.artifacts_dir.write_text("")
        assert_broken(stores.artifact_store(settings), "cannot be used", "HONED_DATA_DIR")

    def test_bytes_that_come_back_changed(
        self, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local, "fault", lambda folder: "probe is damaged")
        assert_broken(stores.artifact_store(settings), "probe is damaged", "Check the disk")

    def test_a_folder_that_may_not_be_written(self) -> None:
        # As somebody else than root, who may write everywhere.
        folder = Path(tempfile.mkdtemp(prefix="honed-doctor-"))
        other = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
        try:
            folder.chmod(0o555)
            done = subprocess.run(
                [
                    *(other if os.geteuid() == 0 else ()),
                    *(sys.executable, "-m", "service.cli", "doctor", "--data", str(folder)),
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        finally:
            folder.chmod(0o755)
            shutil.rmtree(folder)
        assert done.returncode == 1, done.stderr
        broken = done.stdout.splitlines()[-1]
        assert all(name in broken for name in ("database", "broker", "artifacts")), done.stdout
        assert f"Permission denied: '{folder}" in done.stdout


def test_a_disk_without_room(settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    more = shutil.disk_usage(settings.data_dir).total + 1
    monkeypatch.setattr(stores, "LITTLE_BYTES", more)
    assert stores.free_space(settings).status == "warn"
    monkeypatch.setattr(stores, "TOO_LITTLE_BYTES", more)
    assert_broken(stores.free_space(settings), str(settings.data_dir), "Make room")
