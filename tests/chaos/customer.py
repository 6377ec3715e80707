"""A customer who works on while things break, and remembers whatever was acknowledged."""

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai
from user import GRADER, User

from jobs import starter

PATIENCE_SECONDS = 180.0
EVERY_SECONDS = 1.5
STEPS = 60
CHECKPOINT_EVERY = 4


@dataclass
class Ledger:
    """What the service has said yes to."""

    files: dict[str, str] = field(default_factory=dict)
    """Ids with the sha256 of what was sent."""
    jobs: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    doomed: dict[str, str] = field(default_factory=dict)
    """Jobs that must fail, with the code of their error."""
    faults: list[str] = field(default_factory=list)
    """Answers that nobody should get."""


class Customer:
    """The unmodified client: what has no answer yet is sent again under its key."""

    def __init__(self, user: User) -> None:
        self.client = user.client
        self.ledger = Ledger()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def prepare(self) -> None:
        """The files that every job reads."""

        def lines(rows: list[dict[str, Any]]) -> bytes:
            return "".join(json.dumps(row) + "\n" for row in rows).encode()

        self.training_file = self.upload(lines(starter.arithmetic_rows(400, seed=3)))
        valid = starter.arithmetic_rows(64, seed=3, split="valid")
        self.validation_file = self.upload(lines(valid))

    def upload(self, content: bytes) -> str:
        def send(headers: dict[str, str]) -> str:
            return self.client.files.create(
                file=("rows.jsonl", content), purpose="fine-tune", extra_headers=headers
            ).id

        file_id = self.insist("an upload", send)
        self.ledger.files[file_id] = hashlib.sha256(content).hexdigest()
        return file_id

    def run_grader(self, grader: dict[str, Any]) -> dict[str, bool]:
        """What went wrong with it, flag by flag."""
        body = {"grader": grader, "model_sample": "5", "item": {}}

        def send(headers: dict[str, str]) -> Any:
            path = "/fine_tuning/alpha/graders/run"
            return self.client.post(path, cast_to=object, body=body, options={"headers": headers})

        flags: dict[str, bool] = self.insist("a grader's run", send)["metadata"]["errors"]
        return flags

    def create_job(
        self,
        *,
        steps: int = STEPS,
        grader: dict[str, Any] = GRADER,
        fails_as: str | None = None,
    ) -> str:
        hyperparameters = {
            "max_steps": steps,
            "max_completion_tokens": 16,
            "eval_samples": 32 if fails_as is None else 4,
            "eval_interval": 3 * CHECKPOINT_EVERY,
            "checkpoint_interval": CHECKPOINT_EVERY,
        }

        def send(headers: dict[str, str]) -> str:
            return self.client.fine_tuning.jobs.create(
                model="honed/starter",
                training_file=self.training_file,
                validation_file=self.validation_file,
                seed=11,
                method={
                    "type": "reinforcement",
                    "reinforcement": {"grader": grader, "hyperparameters": hyperparameters},
                },
                extra_headers=headers,
            ).id

        job_id = self.insist("a new job", send)
        self.ledger.jobs.append(job_id)
        if fails_as is not None:
            self.ledger.doomed[job_id] = fails_as
        return job_id

    def cancel(self, job_id: str) -> None:
        """A job that is over by then is not cancelled any more."""
        try:
            self.insist("a cancel", lambda headers: self.client.fine_tuning.jobs.cancel(job_id))
        except (openai.BadRequestError, openai.ConflictError):
            return
        self.ledger.cancelled.add(job_id)

    def insist(self, what: str, send: Callable[[dict[str, str]], Any]) -> Any:
        """Send it, under one key, until it is answered."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return send(headers)
            except openai.APIStatusError as error:
                if error.status_code == 500:
                    self.ledger.faults.append(f"{what} was answered 500: {error.message}")
                if error.status_code < 500 or time.monotonic() > deadline:
                    raise
            except openai.APIConnectionError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.3)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Once what it does is answered."""
        self._is_over.set()
        self._thread.join(PATIENCE_SECONDS + 30)
        if self._thread.is_alive():
            self.ledger.faults.append("the customer got no answer")

    def _work(self) -> None:
        number = 0
        while not self._is_over.wait(EVERY_SECONDS):
            number += 1
            try:
                self.upload(f'{{"messages": [], "number": {number}}}\n'.encode())
                if number % 8 == 0:
                    self.cancel(self.create_job(steps=2000))
            except Exception as error:
                self.ledger.faults.append(f"the customer was told: {error!r}")
