"""What is left of a job that is over: adapters to download, and nothing to resume from."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from kept import Kept
from sqlalchemy.orm import Session, sessionmaker

from jobs import retention
from jobs.artifacts import ArtifactStore
from jobs.db import transaction
from jobs.status import Status
from jobs.store import attempts, checkpoints
from service.tidy import tidy

pytestmark = [pytest.mark.on_both_databases, pytest.mark.on_both_stores]

JOBS = "/v1/fine_tuning/jobs"
REWARDS = {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.7, 5: 0.2, 6: 0.0}
KEPT = [6, 4, 3, 1]  # The last, and the three best.


@pytest.fixture
def store(worker: Any) -> ArtifactStore:
    store: ArtifactStore = worker.artifacts
    return store


@pytest.fixture
def claimed(job_id: str, worker: Any) -> attempts.Claim:
    """A running job with a checkpoint at each step, and one that was never published whole."""
    claimed: attempts.Claim = worker.claim(job_id)
    for step, reward in REWARDS.items():
        worker.checkpoint(job_id, step, reward=reward)
    worker.artifacts.publish(f"jobs/{job_id}/attempt-1/step-7", lambda folder: None)
    return claimed


def listed(client: TestClient, job_id: str) -> list[int]:
    """The steps of the listed checkpoints, each of which can be downloaded."""
    page = client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
    for one in page:
        assert client.get(f"{JOBS}/{job_id}/checkpoints/{one['id']}/adapter").status_code == 200
    return [one["step_number"] for one in page]


@pytest.fixture
def left(kept: Kept, job_id: str) -> Callable[[], set[str]]:
    """The names of what is kept of the job."""
    prefix = f"jobs/{job_id}/attempt-1/"
    return lambda: {name.removeprefix(prefix) for name in kept.names(prefix)}


def freed(steps: list[int]) -> set[str]:
    """What is left of checkpoints when nothing is to be resumed."""
    names = ("adapter/adapter_model.safetensors", "adapter.tar", "manifest.json")
    return {f"step-{step}/{name}" for step in steps for name in names}


@pytest.mark.parametrize("end", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_the_best_three_and_the_last_are_left_without_their_states(
    client: TestClient,
    sessions: sessionmaker[Session],
    store: ArtifactStore,
    job_id: str,
    claimed: attempts.Claim,
    left: Callable[[], set[str]],
    end: Status,
) -> None:
    before = left()
    retention.release(sessions, store, job_id)
    tidy(sessions, store)
    assert left() == before, "it runs and may have to resume"
    with transaction(sessions) as session:
        attempts.fence(session, claimed, step=6)
        attempts.conclude(session, claimed, end)
    assert listed(client, job_id) == KEPT, "at once: what is listed now stays"
    retention.release(sessions, store, job_id)
    assert listed(client, job_id) == KEPT
    assert left() == freed(KEPT)
    assert client.get(f"{JOBS}/{job_id}/adapter").status_code == 200
    with sessions() as session:
        assert checkpoints.unreleased(session) == []


@pytest.mark.parametrize(
    "name",
    ["keep_only", "remove", "forget_states"],
    ids=["before-bytes", "before-states", "before-the-mark"],
)
def test_what_was_broken_off_is_done_by_the_sweeper(
    client: TestClient,
    sessions: sessionmaker[Session],
    store: ArtifactStore,
    job_id: str,
    claimed: attempts.Claim,
    left: Callable[[], set[str]],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with transaction(sessions) as session:
        attempts.conclude(session, claimed, Status.SUCCEEDED)
    with monkeypatch.context() as patched:
        room = checkpoints if name == "forget_states" else type(store)
        patched.setattr(room, name, killed)
        with pytest.raises(KeyboardInterrupt):
            retention.release(sessions, store, job_id)
    assert listed(client, job_id) == KEPT
    tidy(sessions, store)
    assert listed(client, job_id) == KEPT
    assert left() == freed(KEPT)


def test_a_paused_job_keeps_its_states_until_it_is_cancelled(
    client: TestClient,
    sessions: sessionmaker[Session],
    store: ArtifactStore,
    job_id: str,
    claimed: attempts.Claim,
    left: Callable[[], set[str]],
) -> None:
    assert client.post(f"{JOBS}/{job_id}/pause").json()["status"] == "pausing"
    with transaction(sessions) as session:
        attempts.stopped(session, claimed)
    before = left()
    tidy(sessions, store)
    assert left() == before
    assert client.post(f"{JOBS}/{job_id}/cancel").json()["status"] == "cancelled"
    tidy(sessions, store)
    assert left() == freed(KEPT)


def test_permissions_go_with_the_checkpoints_that_are_retired(
    client: TestClient,
    sessions: sessionmaker[Session],
    store: ArtifactStore,
    job_id: str,
    claimed: attempts.Claim,
    left: Callable[[], set[str]],
    other_key: Any,
) -> None:
    page = client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
    names = {one["step_number"]: one["fine_tuned_model_checkpoint"] for one in page}
    for step in (1, 2):
        client.post(
            f"/v1/fine_tuning/checkpoints/{names[step].replace('/', '%2F')}/permissions",
            json={"project_ids": [other_key.project_id]},
        )
    with transaction(sessions) as session:
        attempts.conclude(session, claimed, Status.SUCCEEDED)
    retention.release(sessions, store, job_id)
    headers = {"Authorization": f"Bearer {other_key.secret}"}
    shared = client.get("/v1/models", headers=headers).json()["data"]
    assert [one["id"] for one in shared if one["id"].startswith("ft:")] == [names[1]]
