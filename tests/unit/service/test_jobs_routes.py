"""Fine-tuning jobs over HTTP: made, shown, listed, cancelled, paused, resumed."""

from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.doorbell import QUEUE
from jobs.errors import JobFailure
from jobs.models import Job
from jobs.scopes import Scope
from jobs.status import Reason, Status
from jobs.store import attempts, projects
from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings

pytestmark = pytest.mark.on_both_databases

Body = dict[str, Any]
JOBS = "/v1/fine_tuning/jobs"


def doorbells(settings: ServiceSettings) -> int:
    return len(list((settings.broker_dir / "messages").glob(f"*.{QUEUE}.msg")))


def test_a_new_job_shows_every_field(client: TestClient, body: Body) -> None:
    job = client.post(JOBS, json={**body, "suffix": "mine", "metadata": {"team": "a"}}).json()
    assert job["id"].startswith("ftjob-")
    seed = job.pop("seed")
    assert 0 <= seed < 2**31
    hyperparameters = job["method"]["reinforcement"].pop("hyperparameters")
    assert hyperparameters["group_size"] == "auto"
    assert hyperparameters["lora"]["rank"] == 16
    assert job == {
        "id": job["id"],
        "object": "fine_tuning.job",
        "created_at": job["created_at"],
        "finished_at": None,
        "estimated_finish": None,
        "model": body["model"],
        "fine_tuned_model": None,
        "organization_id": job["organization_id"],
        "status": "validating_files",
        "error": None,
        "training_file": body["training_file"],
        "validation_file": body["validation_file"],
        "result_files": [],
        "trained_tokens": None,
        "hyperparameters": {
            "n_epochs": "auto",
            "batch_size": "auto",
            "learning_rate_multiplier": "auto",
        },
        "method": {
            "type": "reinforcement",
            "reinforcement": {
                "grader": body["method"]["reinforcement"]["grader"],
                "response_format": None,
            },
        },
        "user_provided_suffix": "mine",
        "metadata": {"team": "a"},
        "integrations": [],
        "phase": None,
        "reason": None,
        "waiting_for": None,
        "step": 0,
        "total_steps": None,
        "progress": {},
        "attempt": 0,
        "priority": 0,
        "rollouts_per_step": None,
        "verdict": None,
        "limits": None,
        "spent": {"seconds": 0.0, "judge_requests": 0, "judge_tokens": 0},
    }
    assert client.get(f"{JOBS}/{job['id']}").json()["seed"] == seed


def test_the_row_and_its_first_events_are_there_when_the_doorbell_rings(
    client: TestClient, body: Body, settings: ServiceSettings
) -> None:
    assert doorbells(settings) == 0
    job_id = client.post(JOBS, json=body).json()["id"]
    assert doorbells(settings) == 1
    events = client.get(f"{JOBS}/{job_id}/events").json()["data"]
    assert [event["message"] for event in events[::-1]] == [
        f"Created fine-tuning job: {job_id}",
        f"Validating training file: {body['training_file']} and validation file: "
        f"{body['validation_file']}",
    ]


def test_what_was_sent_is_what_is_kept(client: TestClient, body: Body) -> None:
    hyperparameters = {"group_size": 4, "batch_size": 2, "learning_rate": 1e-3, "n_epochs": None}
    body["method"]["reinforcement"]["hyperparameters"] = hyperparameters
    job = client.post(JOBS, json={**body, "seed": 0, "suffix": None, "metadata": None}).json()
    shown = job["method"]["reinforcement"]["hyperparameters"]
    assert {key: shown[key] for key in hyperparameters} == {**hyperparameters, "n_epochs": "auto"}
    assert (job["seed"], job["rollouts_per_step"]) == (0, 8)


def test_a_job_without_validation_file_or_named_by_ours_is_taken(
    client: TestClient, body: Body
) -> None:
    del body["validation_file"]
    job = client.post(JOBS, json=body).json()
    assert job["validation_file"] is None
    message = client.get(f"{JOBS}/{job['id']}/events").json()["data"][0]["message"]
    assert message == f"Validating training file: {body['training_file']}"


def test_a_hub_name_is_left_to_validation(client: TestClient, body: Body) -> None:
    assert client.post(JOBS, json={**body, "model": "Qwen/Qwen3-0.6B"}).status_code == 200


class TestPriority:
    def test_a_job_may_be_put_behind_others_by_anyone(self, client: TestClient, body: Body) -> None:
        for sent, shown in ((None, 0), (0, 0), (-100, -100)):
            assert client.post(JOBS, json={**body, "priority": sent}).json()["priority"] == shown

    def test_before_others_needs_the_scope(
        self, client: TestClient, body: Body, sessions: sessionmaker[Session]
    ) -> None:
        error = error_of(client.post(JOBS, json={**body, "priority": 1}), 403)
        assert error["code"] == "missing_scope"
        assert "`honed keys create --scope priority`" in error["message"]
        assert client.get(JOBS).json()["data"] == []
        with transaction(sessions) as session:
            project = projects.ensure_project(session, "default")
            key = projects.issue_key(session, project, "lead", scopes=[Scope.PRIORITY])
        headers = {"Authorization": f"Bearer {key.secret}"}
        job = client.post(JOBS, json={**body, "priority": 100}, headers=headers).json()
        assert job["priority"] == 100
        with sessions() as session:
            assert session.get_one(Job, job["id"]).priority == 100


def test_a_broker_that_is_away_delays_nothing_and_loses_nothing(
    client: TestClient, body: Body, settings: ServiceSettings
) -> None:
    (settings.broker_dir / "messages").rmdir()
    job_id = client.post(JOBS, json=body).json()["id"]
    assert client.get(f"{JOBS}/{job_id}").json()["status"] == "validating_files"


class TestShown:
    """A job's object, at each stage of its life."""

    def show(self, client: TestClient, job_id: str) -> Body:
        return dict(client.get(f"{JOBS}/{job_id}").json())

    def test_resolved_numbers_replace_auto(
        self, client: TestClient, job_id: str, worker: Any
    ) -> None:
        worker.admit(job_id, hyperparameters={"group_size": 8, "batch_size": 4, "n_epochs": 2})
        job = self.show(client, job_id)
        shown = job["method"]["reinforcement"]["hyperparameters"]
        assert (shown["group_size"], shown["batch_size"], shown["max_steps"]) == (8, 4, "auto")
        assert shown["temperature"] == 1.0
        assert job["hyperparameters"]["n_epochs"] == 2
        assert job["rollouts_per_step"] == 32

    def test_running(
        self, client: TestClient, job_id: str, worker: Any, sessions: sessionmaker[Session]
    ) -> None:
        claimed = worker.claim(job_id)
        with transaction(sessions) as session:
            attempts.fence(
                session,
                claimed,
                phase="training",
                step=3,
                total_steps=10,
                trained_tokens=500,
                estimated_finish_at=2e9,
                progress={"done": 1, "total": 2},
            )
        job = self.show(client, job_id)
        assert (job["status"], job["phase"], job["attempt"]) == ("running", "training", 1)
        assert (job["step"], job["total_steps"]) == (3, 10)
        assert (job["estimated_finish"], job["progress"]["total"]) == (2_000_000_000, 2)
        assert (job["trained_tokens"], job["fine_tuned_model"], job["finished_at"]) == (None,) * 3

    def test_succeeded(self, client: TestClient, body: Body, worker: Any) -> None:
        job = client.post(JOBS, json={**body, "suffix": "mine"}).json()
        worker.conclude(job["id"], Status.SUCCEEDED, trained_tokens=7, verdict="improved")
        done = self.show(client, job["id"])
        assert (done["status"], done["verdict"], done["trained_tokens"]) == (
            "succeeded",
            "improved",
            7,
        )
        name = f"ft:{body['model']}:{done['organization_id']}:mine:{job['id'][6:]}"
        assert done["fine_tuned_model"] == name
        assert isinstance(done["finished_at"], int)
        assert done["phase"] is None

    def test_failed(
        self, client: TestClient, job_id: str, worker: Any, sessions: sessionmaker[Session]
    ) -> None:
        claimed = worker.claim(job_id)
        with transaction(sessions) as session:
            attempts.fail(session, claimed, JobFailure(Reason.GRADER_FAILED, "No grade came."))
        job = self.show(client, job_id)
        assert job["error"] == {
            "code": "grader_failed",
            "message": "No grade came.",
            "param": None,
        }
        assert (job["status"], job["fine_tuned_model"]) == ("failed", None)

    def test_cancelled_has_no_error(self, client: TestClient, job_id: str) -> None:
        answer = client.post(f"{JOBS}/{job_id}/cancel").json()
        assert (answer["status"], answer["error"]) == ("cancelled", None)
        assert answer["reason"] == "cancelled_by_user"
        assert self.show(client, job_id) == answer


class TestRequests:
    """Cancel, pause and resume, as the client sends them: no body, content type JSON."""

    def ask(self, client: TestClient, job_id: str, verb: str) -> Any:
        return client.post(f"{JOBS}/{job_id}/{verb}", headers={"Content-Type": "application/json"})

    def test_pause_and_resume(
        self,
        client: TestClient,
        job_id: str,
        worker: Any,
        sessions: sessionmaker[Session],
        settings: ServiceSettings,
    ) -> None:
        claimed = worker.claim(job_id)
        assert self.ask(client, job_id, "pause").json()["status"] == "pausing"
        with transaction(sessions) as session:
            attempts.conclude(session, claimed, Status.PAUSED, reason=Reason.PAUSED_BY_USER)
        before = doorbells(settings)
        assert self.ask(client, job_id, "resume").json()["status"] == "queued"
        assert doorbells(settings) == before + 1

    def test_a_wrong_state_is_a_400_that_no_client_retries(
        self, client: TestClient, job_id: str
    ) -> None:
        for verb in ("pause", "resume"):
            error = error_of(self.ask(client, job_id, verb), 400)
            assert (error["code"], "validating_files" in error["message"]) == ("wrong_state", True)
        self.ask(client, job_id, "cancel")
        for verb in ("cancel", "pause", "resume"):
            assert "cancelled" in error_of(self.ask(client, job_id, verb), 400)["message"]


def test_list_pages_newest_first(client: TestClient, body: Body) -> None:
    made = [client.post(JOBS, json=body).json()["id"] for _ in range(5)][::-1]
    first = client.get(JOBS, params={"limit": 2}).json()
    assert ([job["id"] for job in first["data"]], first["has_more"]) == (made[:2], True)
    rest = client.get(JOBS, params={"limit": 10, "after": made[1]}).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (made[2:], False)
    error_of(client.get(JOBS, params={"after": "ftjob-none"}), 404)


def test_another_projects_job_is_not_there(
    client: TestClient, job_id: str, other_key: IssuedKey
) -> None:
    client.headers["Authorization"] = f"Bearer {other_key.secret}"
    assert client.get(JOBS).json()["data"] == []
    paths = ("", "/events", "/metrics", "/samples", "/checkpoints", "/adapter")
    answers = [client.get(f"{JOBS}/{job_id}{path}") for path in paths]
    answers += [client.post(f"{JOBS}/{job_id}/{verb}") for verb in ("cancel", "pause", "resume")]
    for answer in answers:
        error = error_of(answer, 404)
        assert (error["param"], error["code"]) == ("fine_tune_id", "fine_tune_not_found")
        assert error["message"] == f"Could not find fine tune: {job_id}"
