"""Attempts at a job in real trainer processes, tampered with where a test wants them to be.

The processes are forked from one that has torch loaded: starting Python anew for each would take
most of the time.
"""

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker
from tampers import one_thread

from jobs import starter
from jobs.db import transaction
from jobs.errors import JobFailure
from jobs.models import Job
from jobs.status import Reason
from jobs.store import attempts, checkpoints, events, losses, metrics
from service.settings import ServiceSettings
from worker import train
from worker.validate import validate

Tamper = Callable[[], None]
"""Run in the trainer process before its `main`."""

ATTEMPT_SECONDS = 120

PLACE = ("artifacts_url", "artifacts_endpoint", "artifacts_region")

GRADER = {
    "type": "string_check",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}

# Fails, by a division by zero, on every answer to a row of the kind "bad".
HALF_FAILING = {
    "type": "multi",
    "graders": {
        "near": {
            "type": "text_similarity",
            "input": "{{sample.output_text}}",
            "reference": "{{item.answer}}",
            "evaluation_metric": "fuzzy_match",
        },
        "good": {
            "type": "string_check",
            "input": "{{item.kind}}",
            "reference": "good",
            "operation": "eq",
        },
    },
    "calculate_output": "near / good",
}


def rows_of_two_kinds() -> list[dict[str, Any]]:
    rows = starter.arithmetic_rows(24, seed=3, split="train")
    return [{**row, "kind": ("good", "bad")[i % 2]} for i, row in enumerate(rows)]


forked = multiprocessing.get_context("forkserver")
# By names that are found from the project's folder: Python 3.11 hands its path to no fork server.
forked.set_forkserver_preload(["worker.train", "worker.validate", "fastapi.testclient"])


@dataclass(frozen=True)
class Trainers:
    """Submits jobs and runs attempts at them, one at a time, as a supervisor would."""

    client: TestClient
    settings: ServiceSettings
    sessions: sessionmaker[Session]

    @property
    def said(self) -> Path:
        return self.settings.data_dir / "said.jsonl"

    def submit(
        self, *, model: str = "honed/starter", grader: Any = GRADER, rows: Any = None, **asked: Any
    ) -> str:
        """Post a job and validate it; it is then queued."""
        training = rows or starter.arithmetic_rows(40, seed=3, split="train")
        held_out = rows or starter.arithmetic_rows(8, seed=3, split="valid")
        body = {
            "model": model,
            "training_file": self._upload(training),
            "validation_file": self._upload(held_out),
            "seed": 11,
            "method": {
                "type": "reinforcement",
                "reinforcement": {"grader": grader, "hyperparameters": asked},
            },
        }
        answer = self.client.post("/v1/fine_tuning/jobs", json=body)
        assert answer.status_code == 200, answer.text
        job_id: str = answer.json()["id"]
        validate(job_id, self.settings, self.sessions)
        job = self.client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        assert job["status"] == "queued", job["error"]
        return job_id

    def _upload(self, rows: list[dict[str, Any]]) -> str:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        files = {"file": ("rows.jsonl", text.encode())}
        answer = self.client.post("/v1/files", data={"purpose": "fine-tune"}, files=files)
        return str(answer.json()["id"])

    def attempt(self, job_id: str, *tampers: Tamper) -> int:
        """Claim the job and run a trainer process on it; its exit code. A death gives it back."""
        with transaction(self.sessions) as session:
            claimed = attempts.claim(session, worker="test", lease_seconds=600)
        assert claimed is not None
        assert claimed.job_id == job_id
        requests, ours = forked.Pipe(duplex=False)
        environ = {
            "HONED_DATA_DIR": str(self.settings.data_dir),
            "HONED_DATABASE_URL": self.settings.sqlalchemy_url,
            "HONED_MODEL_ROOTS": ":".join(map(str, self.settings.model_roots)),
            **{f"HONED_{name.upper()}": getattr(self.settings, name) for name in PLACE},
            # The fork server has the environment that it was started in.
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
        }
        process = forked.Process(
            target=_main, args=(claimed, environ, requests, self.said, tampers)
        )
        process.start()
        requests.close()
        process.join(ATTEMPT_SECONDS)
        code = process.exitcode
        ours.close()
        assert code is not None, "the trainer still runs"
        if code < 0:
            self._lose(claimed)
        return code

    def _lose(self, claimed: attempts.Claim) -> None:
        death = JobFailure(Reason.TRAINER_CRASHED, "It was killed.")
        with transaction(self.sessions) as session:
            losses.lose(session, claimed, death, max_losses=3)
            session.get_one(Job, claimed.job_id).claimable_at = 0.0

    def outcome(self) -> dict[str, Any]:
        """The last word of the last trainer."""
        outcome: dict[str, Any] = json.loads(self.said.read_text().splitlines()[-1])
        return outcome

    def resolved(self, job_id: str) -> dict[str, Any]:
        with self.sessions() as session:
            return session.get_one(Job, job_id).resolved

    def rows(self, job_id: str) -> list[dict[str, Any]]:
        """The job's metrics, in order of steps."""
        with self.sessions() as session:
            page = metrics.list_after(session, job_id, after_step=-1, limit=100)
            return [{"step": row.step, **row.data} for row in page.rows]

    def events(self, job_id: str, type: str = "message") -> list[str]:
        """The messages of the job's events of a type, the oldest first."""
        with self.sessions() as session:
            page = events.list_page(session, job_id, after_seq=None, limit=1000, newest_first=False)
            return [event.message for event in page.rows if event.type == type]

    def folders(self, job_id: str) -> dict[int, str]:
        """The names of published checkpoints by step, the newest first."""
        with self.sessions() as session:
            page = checkpoints.list_page(session, job_id, after=None, limit=100)
            return {one.step: one.folder for one in page.rows}

    def checkpoints(self, job_id: str) -> dict[int, Path]:
        """Adapter folders by step, the newest first; of a store that is a folder."""
        root = self.settings.artifacts_dir
        return {step: root / at / "adapter" for step, at in self.folders(job_id).items()}


def bytes_of(adapter: Path) -> dict[str, str]:
    """The checksums of an adapter's files."""
    files = adapter.glob("adapter_*")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _main(
    claimed: attempts.Claim,
    environ: dict[str, str],
    requests: Connection,
    said: Path,
    tampers: tuple[Tamper, ...],
) -> None:
    os.environ.update(environ)
    # As the supervisor sets them up: requests come in, progress and the outcome go out.
    os.dup2(requests.fileno(), 0)
    sys.stdin = os.fdopen(0)
    os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.argv = ["train", claimed.job_id, str(claimed.attempt)]
    for tamper in (one_thread, *tampers):
        tamper()
    sys.exit(train.main())
