"""`honed doctor` on a machine whose driver, sandbox or clock is really broken."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken import assert_broken, with_url
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from jobs import devices
from jobs.db import connect, transaction
from jobs.graders.sandbox import isolation
from jobs.models import DeviceHealth
from service.doctor import machine
from service.settings import ServiceSettings


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """What this process knows of its devices and its isolation is found out again."""
    devices._nvidia_smi.cache_clear()
    isolation.forget()
    yield
    devices._nvidia_smi.cache_clear()
    isolation.forget()


@pytest.mark.usefixtures("asked_anew")
class TestMachine:
    def test_a_driver_that_fails(
        self, settings: ServiceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\necho 'Driver/library version mismatch'\nexit 18\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        found = machine.device(settings)
        assert_broken(found, "version mismatch", "CUDA_VISIBLE_DEVICES=")

    def test_a_device_that_failed_its_self_test(
        self, settings: ServiceSettings, sessions: sessionmaker[Session]
    ) -> None:
        evidence = {"passed": False, "reason": "Products in bf16 are wrong."}
        with transaction(sessions) as session:
            for worker in (settings.worker_name, "another"):
                session.add(
                    DeviceHealth(
                        worker=worker, slot=0, kind="cpu", is_healthy=False, evidence=evidence
                    )
                )
        found = machine.device(settings)
        assert_broken(found, "slot 0: Products in bf16 are wrong.", "worker.examiner")

    def test_no_isolation(self, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(isolation, "LEVELS", ())
        assert_broken(machine.sandbox(settings), "no isolation", "bubblewrap")

    def test_a_database_whose_clock_is_wrong(
        self, settings: ServiceSettings, blank_postgresql_url: str
    ) -> None:
        fake = (
            "CREATE SCHEMA fake",
            "CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql "
            "AS $$ SELECT pg_catalog.clock_timestamp() - interval '90 seconds' $$",
        )
        engine = connect(blank_postgresql_url)
        with engine.begin() as connection:
            for statement in fake:
                connection.execute(text(statement))
        engine.dispose()
        url = f"{blank_postgresql_url}?options=-c%20search_path%3Dfake,pg_catalog,public"
        found = machine.clock(with_url(settings, url))
        assert_broken(found, "90.", "NTP")
        assert "behind this machine's" in found.found
        assert machine.clock(with_url(settings, blank_postgresql_url)).status == "ok"
