"""The OpenAPI document as a promise: requests made up from it never get what it does not name."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fuzzed import CHECKS, made_up
from hypothesis import given
from schemathesis import GenerationMode, checks

from jobs.db import connect, session_factory, transaction
from jobs.models import Checkpoint
from jobs.names import tuned_checkpoint
from jobs.status import Status
from jobs.store import attempts, checkpoints, jobs, metrics, projects, validation
from service.app import create_app
from service.settings import ServiceSettings

pytestmark = pytest.mark.slow

JOBS = "/v1/fine_tuning/jobs"
CHAT = "/v1/chat/completions"
DOCUMENT = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
# Deletions last: what is there is looked at before.
OPERATIONS = sorted(
    (path, method, mode)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    for mode in GenerationMode
    # Nothing can be wrong with a request that holds nothing.
    if mode.is_positive or {"parameters", "requestBody"} & set(operation)
)
OPERATIONS.sort(key=lambda operation: operation[1] == "delete")
GRADER = {"type": "length", "unit": "words", "max": 3}


@dataclass
class World:
    """A service with one of everything, so that ids can be found as well as missed."""

    app: FastAPI
    key: str
    known: dict[str, str]
    turn: "count[int]"
    """Every second request is pointed at what is there."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(migrated_database, folder / "honed.db")
    # Nothing serves chat here, and no worker runs.
    app = create_app(ServiceSettings(data_dir=folder, serving_start_seconds=0, cancel_seconds=0))
    engine = connect(f"sqlite:///{folder / 'honed.db'}")
    sessions = session_factory(engine)
    with transaction(sessions) as session:
        project = projects.ensure_project(session, "default")
        key = projects.issue_key(session, project, "test").secret
    with TestClient(app, headers={"Authorization": f"Bearer {key}"}) as client:
        file = client.post(
            "/v1/files",
            data={"purpose": "fine-tune"},
            files={"file": ("rows.jsonl", b'{"messages": [{"role": "user", "content": "a"}]}\n')},
        ).json()
        job = client.post(
            JOBS,
            json={
                "model": "honed/starter",
                "training_file": file["id"],
                "method": {"type": "reinforcement", "reinforcement": {"grader": GRADER}},
            },
        ).json()
        announced = {"bytes": 1, "filename": "a", "mime_type": "a/b", "purpose": "evals"}
        upload = client.post("/v1/uploads", json=announced).json()
    with transaction(sessions) as session:
        validation.admit(session, job["id"], resolved={})
        claimed = attempts.claim(session, worker="w", lease_seconds=600)
        assert claimed is not None
        metrics.put(session, job["id"], step=1, attempt=1, data={"train_mean_reward": 0.5})
        made = checkpoints.put(
            session,
            job["id"],
            step=1,
            attempt=1,
            folder="gone",
            archive_sha256="0",
            archive_bytes=1,
            metrics={},
        )
        assert isinstance(made, Checkpoint)
        attempts.fence(session, claimed, step=1)
        attempts.conclude(session, claimed, Status.SUCCEEDED)
        name = tuned_checkpoint(jobs.get(session, project.id, job["id"]), 1)
    known = {
        "file_id": file["id"],
        "job_id": job["id"],
        "checkpoint_id": made.id,
        "upload_id": upload["id"],
        "checkpoint": name,
        "model": name,
        "project_id": project.id,
    }
    yield World(app, key, known, count())
    app.state.resources.close()
    engine.dispose()


@pytest.fixture(scope="module")
def document(world: World) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", world.app)


@pytest.mark.parametrize(("path", "method", "mode"), OPERATIONS)
def test_no_answer_is_outside_the_document(
    world: World, document: Any, path: str, method: str, mode: GenerationMode
) -> None:
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    @made_up(25)
    def check(case: Any) -> None:
        if next(world.turn) % 2:
            aim(case, world.known)
        response = case.call(headers={"Authorization": f"Bearer {world.key}"})
        # Nothing answers chat here, and saying so is the right answer.
        is_away = path == CHAT and response.status_code == 503
        left_out = [checks.not_a_server_error] if is_away else []
        case.validate_response(response, checks=CHECKS, excluded_checks=left_out)

    check()


def aim(case: Any, known: dict[str, str]) -> None:
    """Point a made-up request at what is there."""
    for name in case.path_parameters or {}:
        case.path_parameters[name] = known.get(name, case.path_parameters[name])
    body = case.body if isinstance(case.body, dict) else {}
    for name, value in (
        ("training_file", known["file_id"]),
        ("validation_file", None),
        ("model", "honed/starter"),
        ("grader", GRADER),
        ("method", {"type": "reinforcement", "reinforcement": {"grader": GRADER}}),
        ("project_ids", [known["project_id"]]),
    ):
        if name in body:
            body[name] = value
