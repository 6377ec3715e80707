"""`/metrics`: the numbers of the whole system, for Prometheus, and who may see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client.openmetrics.parser as openmetrics
import pytest
from envelope import error_of
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session, sessionmaker

from jobs import monitoring as measures
from jobs.db import transaction
from jobs.errors import JobFailure, QuotaExceeded, TooManyRequests, Unavailable
from jobs.models import DeviceHealth, Job
from jobs.status import Reason, Status
from jobs.store import attempts, losses, tallies
from jobs.store.projects import IssuedKey
from service import monitoring
from service.app import create_app
from service.settings import ServiceSettings

Sessions = sessionmaker[Session]
Numbers = dict[str, float]

DOCS = Path(__file__).parents[3] / "docs" / "monitoring.md"


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "FRESH_SECONDS", -1.0)


@pytest.fixture
def here(app: FastAPI) -> Iterator[TestClient]:
    """A scraper on this machine, without a key."""
    with TestClient(app, client=("127.0.0.1", 50000)) as client:
        yield client


def scraped(scraper: TestClient) -> Numbers:
    """Every number by its name and labels, as a query would write them."""
    answer = scraper.get("/metrics")
    assert answer.status_code == 200, answer.text
    found: Numbers = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found
            found[key] = sample.value
    return found


class TestAccess:
    def test_another_machine_needs_the_token(self, app: FastAPI, key: IssuedKey) -> None:
        with TestClient(app, client=("10.0.0.7", 50000)) as away:
            for headers in ({}, {"Authorization": f"Bearer {key.secret}"}):
                error = error_of(away.get("/metrics", headers=headers), 401)
                assert "HONED_METRICS_TOKEN" in error["message"]
                assert "None is set" in error["message"]
            app.state.resources.settings.metrics_token = "a-token"
            wrong, right = (
                away.get("/metrics", headers={"Authorization": f"Bearer {token}"})
                for token in ("another", "a-token")
            )
        assert (wrong.status_code, right.status_code) == (401, 200)

    @pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
    def test_a_proxy_on_this_machine_asks_for_others(self, here: TestClient, header: str) -> None:
        assert here.get("/metrics", headers={header: "1.2.3.4"}).status_code == 401

    def test_this_machine_needs_none(self, here: TestClient) -> None:
        assert here.get("/metrics").headers["content-type"].startswith("text/plain; version=")
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        text = here.get("/metrics", headers=accept).text
        names = {family.name for family in openmetrics.text_string_to_metric_families(text)}
        assert {"grpo_jobs", "grpo_job_losses"} <= names


def test_every_measure_is_documented() -> None:
    gauges = [one for one in vars(measures).values() if isinstance(one, measures.Gauge)]
    text = DOCS.read_text()
    for measure in (*measures.TALLIED, *gauges):
        labels = f"{{{','.join(measure.labels)}}}" if measure.labels else ""
        assert f"`{measure.name}{labels}`" in text


class TestJobs:
    def test_states_ends_and_losses(
        self, here: TestClient, worker: Any, job_id: str, sessions: Sessions
    ) -> None:
        numbers = scraped(here)
        assert numbers["grpo_jobs{state=validating_files}"] == 1
        assert {numbers[f"grpo_jobs{{state={state}}}"] for state in Status} == {0, 1}
        assert numbers["grpo_job_queue_seconds_count"] == 0

        claimed = worker.claim(job_id)
        loss = JobFailure(Reason.WORKER_LOST, "It is gone.")
        with transaction(sessions) as session:
            losses.lose(session, claimed, loss, max_losses=2)
            session.get_one(Job, job_id).claimable_at = 0.0
        numbers = scraped(here)
        assert numbers["grpo_jobs{state=queued}"] == 1
        assert numbers["grpo_job_losses_total{reason=worker_lost}"] == 1
        assert numbers["grpo_job_queue_seconds_count"] == 1
        assert not any(name.startswith("grpo_job_ends_total") for name in numbers)

        with transaction(sessions) as session:
            again = attempts.claim(session, worker="w", lease_seconds=60)
            assert again is not None
            losses.lose(session, again, loss, max_losses=2)
        numbers = scraped(here)
        assert numbers["grpo_jobs{state=failed}"] == 1
        assert numbers["grpo_job_losses_total{reason=worker_lost}"] == 2
        assert numbers["grpo_job_ends_total{reason=worker_lost,state=failed}"] == 1

    def test_waiting_jobs_and_owed_doorbells(
        self, here: TestClient, worker: Any, job_id: str, sessions: Sessions
    ) -> None:
        worker.admit(job_id)
        assert scraped(here)["grpo_outbox_pending"] == 0
        with transaction(sessions) as session:
            session.get_one(Job, job_id).claimable_at -= 3600
        numbers = scraped(here)
        assert numbers["grpo_outbox_pending"] == 1
        assert 3600 <= numbers["grpo_job_oldest_queued_seconds"] < 7200

    def test_a_silent_worker_and_its_gpu(
        self, here: TestClient, worker: Any, job_id: str, sessions: Sessions
    ) -> None:
        worker.claim(job_id)
        gpu = {"device": "1", "used_bytes": 7.0, "total_bytes": 80.0}
        with transaction(sessions) as session:
            job = session.get_one(Job, job_id)
            job.lease_owner, job.progress = "box:7:4242", {"gpu": gpu}
            assert job.lease_expires_at is not None
            job.lease_expires_at -= 1000
        numbers = scraped(here)
        assert numbers["grpo_worker_lease_age_seconds{worker=box:7}"] > 900
        assert numbers["grpo_gpu_memory_bytes{device=1,worker=box:7}"] == 7
        assert numbers["grpo_gpu_memory_total_bytes{device=1,worker=box:7}"] == 80

    def test_devices_by_their_health(self, here: TestClient, sessions: Sessions) -> None:
        assert scraped(here)["grpo_devices{status=unhealthy}"] == 0
        with transaction(sessions) as session:
            for slot, is_healthy in enumerate((True, False, True)):
                session.add(
                    DeviceHealth(worker="box", slot=slot, kind="cpu", is_healthy=is_healthy)
                )
        numbers = scraped(here)
        assert numbers["grpo_devices{status=healthy}"] == 2
        assert numbers["grpo_devices{status=unhealthy}"] == 1

    def test_grades_that_failed(self, here: TestClient, sessions: Sessions) -> None:
        with transaction(sessions) as session:
            tallies.of(session).count(measures.REWARD_ERRORS, 3, code="python_grader_runtime_error")
        number = scraped(here)["grpo_reward_errors_total{code=python_grader_runtime_error}"]
        assert number == 3


class TestRequests:
    def test_answers_are_counted_by_route_and_status(
        self, app: FastAPI, client: TestClient, here: TestClient
    ) -> None:
        client.get("/v1/fine_tuning/jobs/ftjob-a")
        client.get("/v1/fine_tuning/jobs/ftjob-b")
        client.request("BREW", "/v1/files")
        client.get("/no/such/path")
        client.get("/v1/files")
        numbers = scraped(here)
        job = "/v1/fine_tuning/jobs/{job_id}"
        assert numbers[f"grpo_http_requests_total{{method=GET,route={job},status=404}}"] == 2
        assert numbers["grpo_http_requests_total{method=GET,route=none,status=404}"] == 1
        assert numbers["grpo_http_requests_total{method=GET,route=/v1/files,status=200}"] == 1
        assert sum(v for k, v in numbers.items() if "method=other" in k) == 1
        assert numbers[f"grpo_http_request_seconds_count{{route={job}}}"] == 2

    def test_they_outlive_the_process(
        self, app: FastAPI, key: IssuedKey, settings: ServiceSettings
    ) -> None:
        for _ in range(2):
            with TestClient(create_app(settings)) as client:
                client.get("/healthz")
        with TestClient(app, client=("127.0.0.1", 50000)) as scraper:
            numbers = scraped(scraper)
        healthy = "grpo_http_requests_total{method=GET,route=/healthz,status=200}"
        assert numbers[healthy] == 2

    def test_refusals_are_counted_by_their_code(
        self, app: FastAPI, client: TestClient, here: TestClient
    ) -> None:
        @app.post("/full")
        def full(code: str) -> None:
            raise Unavailable("No room.", code=code)

        @app.post("/quota")
        def quota() -> None:
            raise QuotaExceeded("No more.")

        @app.post("/busy")
        def busy() -> None:
            raise TooManyRequests("Later.")

        for path in (
            "/full?code=storage_full",
            "/full?code=storage_full",
            "/busy",
            "/quota",
            "/v1/files",
        ):
            client.post(path)
        numbers = scraped(here)
        refusals = {k: v for k, v in numbers.items() if "refusals" in k}
        assert refusals == {
            "grpo_admission_refusals_total{code=storage_full}": 2,
            f"grpo_admission_refusals_total{{code={TooManyRequests.code}}}": 1,
            "grpo_admission_refusals_total{code=storage_quota_exceeded}": 1,
        }

    def test_they_are_kept_while_the_database_is_away(
        self, app: FastAPI, client: TestClient, here: TestClient, settings: ServiceSettings
    ) -> None:
        client.get("/v1/files")
        database, away = settings.data_dir / "honed.db", settings.data_dir / "away.db"
        app.state.resources.engine.dispose()  # its connections have the file open
        database.rename(away)
        database.mkdir()
        numbers = scraped(here)
        assert numbers["grpo_database_up"] == 0
        assert numbers["grpo_disk_free_bytes"] > 0
        assert "grpo_jobs{state=queued}" not in numbers
        database.rmdir()
        away.rename(database)
        numbers = scraped(here)
        assert numbers["grpo_database_up"] == 1
        assert numbers["grpo_http_requests_total{method=GET,route=/v1/files,status=200}"] == 1


def test_many_scrapes_ask_the_database_once(
    app: FastAPI, here: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "FRESH_SECONDS", 3600.0)
    asked: list[str] = []
    engine: Engine = app.state.resources.engine
    event.listen(engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    for _ in range(20):
        assert here.get("/metrics").status_code == 200
    assert len(asked) <= 6
