"""One round of the sweeper, and the doorbell it rings."""

import logging
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from sweeping import Sessions, lapse, rings, row

from jobs.db import transaction
from jobs.doorbell import EXPIRES_SECONDS, TASK_NAME, celery_config
from jobs.models import Job
from jobs.status import Status
from jobs.store import attempts
from service.doorbell import Doorbell
from service.settings import ServiceSettings
from service.sweeper import MAX_RINGS, sweep

pytestmark = pytest.mark.on_both_databases


def test_a_ring_is_the_message_that_the_worker_knows(
    settings: ServiceSettings, doorbell: Doorbell
) -> None:
    assert doorbell.ring()
    assert rings(settings) == 1
    (message,) = (settings.broker_dir / "messages").iterdir()
    text = message.read_text()
    assert f'"task": "{TASK_NAME}"' in text
    assert '"content-type": "application/json"' in text
    assert '"expires": "' in text
    assert EXPIRES_SECONDS <= 60


def test_only_json_crosses_the_broker(settings: ServiceSettings) -> None:
    config = celery_config(settings)
    assert (config["task_serializer"], config["accept_content"]) == ("json", ["json"])


def test_nothing_depends_on_what_a_broker_promises(settings: ServiceSettings) -> None:
    """No message is kept for as long as its work lasts, and no answer, order or result at all."""
    config = celery_config(settings)
    assert config["task_acks_late"] is False
    assert config["task_ignore_result"] is True
    assert config["worker_prefetch_multiplier"] == 1
    assert config["worker_enable_remote_control"] is False


def test_nothing_to_do_rings_nobody(
    sessions: Sessions, settings: ServiceSettings, doorbell: Doorbell
) -> None:
    sweep(sessions, doorbell, settings)
    assert rings(settings) == 0


def test_an_expired_lease_goes_back_to_the_queue(
    client: TestClient,
    job_id: str,
    worker: Any,
    sessions: Sessions,
    settings: ServiceSettings,
    doorbell: Doorbell,
) -> None:
    worker.claim(job_id)
    sweep(sessions, doorbell, settings)
    assert row(sessions, job_id).status == Status.RUNNING
    lapse(sessions, job_id)
    sweep(sessions, doorbell, settings)
    job = row(sessions, job_id)
    assert (job.status, job.num_losses) == (Status.QUEUED, 1)
    (event, *_) = client.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
    assert event["level"] == "warn"
    assert "has not been heard of for 20 seconds" in event["message"]
    assert "queued again" in event["message"]


def test_a_poison_job_ends(
    job_id: str, worker: Any, sessions: Sessions, settings: ServiceSettings, doorbell: Doorbell
) -> None:
    worker.claim(job_id)
    for _ in range(settings.max_losses):
        with transaction(sessions) as session:
            session.execute(update(Job).where(Job.id == job_id).values(claimable_at=1.0))
            attempts.claim(session, worker="w", lease_seconds=60)
        lapse(sessions, job_id)
        sweep(sessions, doorbell, settings)
    job = row(sessions, job_id)
    assert (job.status, job.attempt) == (Status.FAILED, settings.max_losses)


def test_a_row_that_cannot_be_seized_is_left_for_the_next_sweep(
    job_id: str,
    worker: Any,
    sessions: Sessions,
    settings: ServiceSettings,
    doorbell: Doorbell,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when somebody locks it between the look and the seizure."""
    claimed = worker.claim(job_id)
    lapse(sessions, job_id)

    def locked(*_: Any) -> None:
        raise OperationalError("UPDATE jobs", {}, Exception("lock timeout"))

    with monkeypatch.context() as patched:
        patched.setattr(attempts, "seize", locked)
        sweep(sessions, doorbell, settings)
    assert f"{claimed.job_id} could not be requeued" in caplog.text
    assert row(sessions, job_id).status == Status.RUNNING
    sweep(sessions, doorbell, settings)
    assert row(sessions, job_id).status == Status.QUEUED


def test_two_sweepers_requeue_once(
    job_id: str, worker: Any, sessions: Sessions, settings: ServiceSettings, doorbell: Doorbell
) -> None:
    worker.claim(job_id)
    lapse(sessions, job_id)
    with sessions() as session:
        (seen,) = attempts.expired(session)
    sweep(sessions, doorbell, settings)
    with pytest.raises(Exception, match="not expired any more"), transaction(sessions) as session:
        attempts.seize(session, seen)
    assert row(sessions, job_id).num_losses == 1


def test_a_waiting_job_is_rung_for_again_but_not_at_every_sweep(
    job_id: str, sessions: Sessions, settings: ServiceSettings, doorbell: Doorbell
) -> None:
    for message in (settings.broker_dir / "messages").iterdir():
        message.unlink()  # the broker was wiped
    for _ in range(3):
        sweep(sessions, doorbell, settings)
    assert rings(settings) == 1
    with transaction(sessions) as session:
        session.execute(update(Job).where(Job.id == job_id).values(rung_at=time.time() - 60))
    sweep(sessions, doorbell, settings)
    assert rings(settings) == 2


def test_each_waiting_job_gets_a_ring_up_to_a_bound(
    client: TestClient,
    body: dict[str, Any],
    sessions: Sessions,
    settings: ServiceSettings,
    doorbell: Doorbell,
) -> None:
    for count, wanted in ((3, 3), (15, MAX_RINGS)):
        for _ in range(count):
            assert client.post("/v1/fine_tuning/jobs", json=body).status_code == 200
        for message in (settings.broker_dir / "messages").iterdir():
            message.unlink()
        with transaction(sessions) as session:
            session.execute(update(Job).values(rung_at=None))
        sweep(sessions, doorbell, settings)
        assert rings(settings) == wanted


def test_a_broker_that_is_away_is_said_once_per_ring_and_survived(
    sessions: Sessions,
    settings: ServiceSettings,
    doorbell: Doorbell,
    job_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = settings.broker_dir / "messages"
    for message in folder.iterdir():
        message.unlink()
    folder.rmdir()
    with caplog.at_level(logging.WARNING, logger="service.doorbell"):
        sweep(sessions, doorbell, settings)
    assert "the broker did not take a doorbell" in caplog.text
    assert doorbell.fault() is not None
    folder.mkdir()
    assert doorbell.ring()
    assert doorbell.fault() is None


def test_a_dead_redis_costs_a_few_seconds_at_most(settings: ServiceSettings) -> None:
    settings.broker_url = "redis://127.0.0.1:1/0"
    doorbell = Doorbell(settings)
    try:
        started = time.monotonic()
        assert not doorbell.ring()
        assert time.monotonic() - started < 20, "it is tried again and again"
        assert doorbell.fault() is not None
    finally:
        doorbell.close()
