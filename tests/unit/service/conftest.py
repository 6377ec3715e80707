"""A job over HTTP, and hands that play its worker."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ADAPTER_ARCHIVE, ArtifactStore, open_store, pack
from jobs.db import transaction
from jobs.graders.sandbox import isolation, pools
from jobs.settings import get_settings
from jobs.status import Status
from jobs.store import attempts, checkpoints, validation
from service.doorbell import Doorbell
from service.settings import ServiceSettings

Body = dict[str, Any]

ROWS = [{"messages": [{"role": "user", "content": f"{n} + 1"}], "answer": n + 1} for n in range(3)]


def jsonl(rows: list[Body]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def upload(client: TestClient) -> Callable[..., str]:
    """Uploads a file; its id."""

    def upload(content: bytes = jsonl(ROWS), purpose: str = "fine-tune") -> str:
        response = client.post(
            "/v1/files", data={"purpose": purpose}, files={"file": ("rows.jsonl", content)}
        )
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    return upload


@pytest.fixture
def body(upload: Callable[..., str], model_folder: Path) -> Body:
    """A good body of POST /v1/fine_tuning/jobs."""
    grader = {
        "type": "string_check",
        "name": "exact",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "operation": "eq",
    }
    return {
        "model": str(model_folder),
        "training_file": upload(),
        "validation_file": upload(),
        "method": {"type": "reinforcement", "reinforcement": {"grader": grader}},
    }


@pytest.fixture
def job_id(client: TestClient, body: Body) -> str:
    """A new job, in validation."""
    response = client.post("/v1/fine_tuning/jobs", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


@dataclass
class Worker:
    """What a worker does to a job, through the same store functions."""

    sessions: sessionmaker[Session]
    artifacts: ArtifactStore

    def admit(self, job_id: str, **resolved: Any) -> None:
        with transaction(self.sessions) as session:
            assert validation.admit(session, job_id, resolved=resolved)

    def claim(self, job_id: str) -> attempts.Claim:
        self.admit(job_id)
        with transaction(self.sessions) as session:
            claimed = attempts.claim(session, worker="w", lease_seconds=60)
        assert claimed is not None
        assert claimed.job_id == job_id
        return claimed

    def conclude(self, job_id: str, status: Status, **values: Any) -> None:
        claimed = self.claim(job_id)
        with transaction(self.sessions) as session:
            attempts.conclude(session, claimed, status, **values)

    def finish(self, job_id: str, *steps: int) -> None:
        """Run a job to its end with a checkpoint at each step; the last one is the end."""
        claimed = self.claim(job_id)
        for step in steps:
            self.checkpoint(job_id, step)
        with transaction(self.sessions) as session:
            attempts.fence(session, claimed, step=steps[-1])
            attempts.conclude(session, claimed, Status.SUCCEEDED)

    def checkpoint(
        self, job_id: str, step: int, content: bytes = b"weights", *, reward: float = 0.5
    ) -> bytes:
        """Publish an adapter, with what a resume needs beside it; the archive's bytes."""

        def write(folder: Path) -> None:
            (folder / "adapter").mkdir()
            (folder / "state").mkdir()
            (folder / "state" / "tensors.safetensors").write_bytes(b"moments")
            (folder / "adapter" / "adapter_model.safetensors").write_bytes(content)
            pack(folder / "adapter", folder / ADAPTER_ARCHIVE)

        relative = f"jobs/{job_id}/attempt-1/step-{step}"
        self.artifacts.publish(relative, write)
        content = self.artifacts.content(f"{relative}/{ADAPTER_ARCHIVE}", what="it")
        archive = b"".join(content.read(0, content.num_bytes))
        with transaction(self.sessions) as session:
            checkpoints.put(
                session,
                job_id,
                step=step,
                attempt=1,
                folder=relative,
                archive_sha256=hashlib.sha256(archive).hexdigest(),
                archive_bytes=len(archive),
                metrics={"valid_reward_mean": reward, "full_valid_mean_reward": reward},
            )
        return archive


@pytest.fixture
def worker(sessions: sessionmaker[Session], settings: ServiceSettings) -> Iterator[Worker]:
    worker = Worker(sessions, open_store(settings))
    yield worker
    worker.artifacts.close()


@pytest.fixture
def doorbell(settings: ServiceSettings) -> Iterator[Doorbell]:
    doorbell = Doorbell(settings)
    yield doorbell
    doorbell.close()


@pytest.fixture
def names_in() -> Callable[[bytes], list[str]]:
    """The names in a tar."""

    def names_in(archive: bytes) -> list[str]:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            return tar.getnames()

    return names_in


@pytest.fixture
def no_isolation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that offers no isolation for users' Python."""

    def afresh() -> None:
        pools.close_all()
        isolation.forget()
        get_settings.cache_clear()

    monkeypatch.setattr(isolation, "LEVELS", ())
    afresh()
    yield
    afresh()
