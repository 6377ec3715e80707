"""A machine that loses every job: its worker finds out, stops claiming, and says why."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update
from supervised import Script, Sessions, drain, make_claimable, messages, queued_job, row

from jobs.db import transaction
from jobs.models import DeviceHealth
from jobs.status import Status
from service.settings import ServiceSettings
from worker import health

DIES = "sys.exit('the driver is gone')"
SUCCEEDS = """
print(json.dumps({"outcome": "succeeded", "verdict": "improved"}), flush=True)
"""
SOUND = [{"check": "memory", "passed": None, "found": ""}]
SOUND += [{"check": "memory", "passed": True, "found": "128 MiB"}]
BROKEN = [*SOUND, {"check": "products", "passed": False, "found": "7 numbers are wrong"}]


@pytest.fixture
def examiner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Makes a script the self-test; each run of it adds a line to the file returned."""
    script, runs = tmp_path / "examiner.py", tmp_path / "runs"

    def make(said: list[dict[str, Any]], ends: str = "") -> Path:
        lines = "\n".join(json.dumps(one) for one in said)
        script.write_text(
            f"import os, signal, sys, time\nopen({str(runs)!r}, 'a').write('run\\n')\n"
            f"print({lines!r}, flush=True)\n{ends}"
        )
        monkeypatch.setattr(health, "COMMAND", (sys.executable, str(script)))
        return runs

    return make


def shown(client: TestClient) -> dict[str, Any]:
    (device,) = client.get("/v1/capabilities").json()["devices"]
    return dict(device)


def test_a_bad_machine_stops_claiming_and_the_jobs_keep_their_retries_until_it_recovers(
    settings: ServiceSettings,
    sessions: Sessions,
    client: TestClient,
    trainer: Script,
    examiner: Callable[..., Path],
) -> None:
    settings = settings.model_copy(update={"max_losses": 2})
    trainer(DIES)
    runs = examiner(BROKEN, "sys.exit(1)")
    first, second, third = (queued_job(sessions) for _ in range(3))
    drain(settings)
    assert runs.read_text() == "run\n"
    for job_id in (first, second):
        job = row(sessions, job_id)
        assert (job.status, job.num_losses, job.attempt) == (Status.QUEUED, 0, 1)
    assert row(sessions, third).attempt == 0
    said = [one for one in messages(sessions, first) if "is unhealthy" in one]
    assert "the check 'products' failed: 7 numbers are wrong." in said[0]

    device = shown(client)
    assert (device["status"], device["slot"]) == ("unhealthy", 0)
    assert "7 numbers are wrong" in device["reason"]
    assert [one["check"] for one in device["evidence"]["checks"]] == ["memory", "products"]
    assert device["next_test_at"] > device["tested_at"]

    for job_id in (first, second, third):
        make_claimable(sessions, job_id)
    drain(settings)
    assert runs.read_text() == "run\n"
    assert row(sessions, third).attempt == 0

    trainer(SUCCEEDS)
    examiner(SOUND)
    with transaction(sessions) as session:
        session.execute(update(DeviceHealth).values(test_at=1.0))
    drain(settings)
    assert runs.read_text() == "run\nrun\n"
    assert [row(sessions, one).status for one in (first, second, third)] == ["succeeded"] * 3
    assert shown(client)["status"] == "healthy"


def test_jobs_that_die_by_themselves_on_a_sound_machine_are_counted_as_ever(
    settings: ServiceSettings,
    sessions: Sessions,
    client: TestClient,
    trainer: Script,
    examiner: Callable[..., Path],
) -> None:
    trainer(DIES)
    runs = examiner(SOUND)
    lost = [queued_job(sessions) for _ in range(2)]
    drain(settings)
    assert runs.read_text() == "run\n"
    assert [row(sessions, job_id).num_losses for job_id in lost] == [1, 1]
    assert shown(client)["status"] == "healthy"


@pytest.mark.parametrize("ends", ["time.sleep(600)", "os.kill(os.getpid(), signal.SIGSEGV)"])
def test_a_self_test_that_hangs_or_dies_is_a_failed_one(
    settings: ServiceSettings,
    sessions: Sessions,
    client: TestClient,
    trainer: Script,
    examiner: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    is_hanging = "sleep" in ends
    if is_hanging:
        monkeypatch.setattr(health, "EXAM_SECONDS", 3.0)
    trainer(DIES)
    examiner([*SOUND, {"check": "starter model", "passed": None, "found": ""}], ends)
    lost = [queued_job(sessions) for _ in range(2)]
    drain(settings)
    assert [row(sessions, job_id).num_losses for job_id in lost] == [0, 0]
    reason = shown(client)["reason"]
    expected = "did not end" if is_hanging else "was killed by SIGSEGV"
    assert reason.startswith(f"In its self-test its process {expected}")
    assert is_hanging or "in the check 'starter model'" in reason


def test_a_worker_that_shuts_down_ends_its_self_test_without_a_verdict(
    settings: ServiceSettings,
    sessions: Sessions,
    client: TestClient,
    trainer: Script,
    examiner: Callable[..., Path],
) -> None:
    trainer(DIES)
    runs = examiner(SOUND, "time.sleep(600)")
    lost = [queued_job(sessions) for _ in range(2)]
    drain(settings, is_stopping=runs.exists)
    assert [row(sessions, job_id).num_losses for job_id in lost] == [1, 1]
    device = shown(client)
    assert (device["status"], device["tested_at"]) == ("healthy", None)


@pytest.mark.slow
def test_this_machine_passes_the_real_self_test(
    settings: ServiceSettings, sessions: Sessions, client: TestClient, trainer: Script
) -> None:
    trainer(DIES)
    for _ in range(2):
        queued_job(sessions)
    drain(settings)
    device = shown(client)
    assert (device["status"], device["evidence"]["ended"]) == ("healthy", "exited with code 0")
    assert [one["check"] for one in device["evidence"]["checks"]] == [
        "device",
        "memory",
        "products in float32",
        "products in bfloat16",
        "starter model",
    ]
