"""An update of everything under a running job: each part is replaced, and nobody notices."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from scaled import Scaled, start
from user import assert_each_step_once, weights_sha256
from waiting import wait_for

from jobs import starter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 400


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Scaled]:
    running = start(tmp_path)
    yield running
    running.close()


class Client:
    """Asks and sends all the time; what was not answered is sent again under its key."""

    def __init__(self, stack: Scaled, job_id: str) -> None:
        self.stack = stack
        self.job_id = job_id
        self.jobs: list[str] = []
        self.files: dict[str, bytes] = {}
        self.rows: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(120)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._is_over.wait(0.2):
                self._work()
        except Exception as failure:
            self.failure = failure

    def _work(self) -> None:
        after = self.rows[-1]["step"] if self.rows else -1
        path = f"/fine_tuning/jobs/{self.job_id}/metrics"
        self.rows += self._insist(lambda key: self.stack.get(path, after_step=after))["data"]
        content = json.dumps({"messages": [], "number": len(self.files)}).encode()
        sent = self._insist(
            lambda key: self.stack.client.files.create(
                file=("rows.jsonl", content), purpose="fine-tune", extra_headers=key
            )
        )
        self.files[sent.id] = content
        if len(self.files) % 10 == 1:
            self.jobs.append(self._insist(self._create).id)

    def _create(self, key: dict[str, str]) -> Any:
        """A job that waits behind the one that trains, and is short."""
        return self.stack.client.fine_tuning.jobs.create(
            model="honed/starter",
            training_file=self._training_file(),
            method={
                "type": "reinforcement",
                "reinforcement": {
                    "grader": {
                        "type": "length",
                        "input": "{{sample.output_text}}",
                        "unit": "words",
                        "max": 2,
                    },
                    "hyperparameters": {"max_steps": 1, "max_completion_tokens": 4},
                },
            },
            extra_headers=key,
        )

    def _training_file(self) -> str:
        if not self.jobs:
            rows = starter.arithmetic_rows(8, seed=3, split="train")
            self._rows_id = self.stack.upload(rows)
        return self._rows_id

    def _insist(self, send: Any) -> Any:
        """Until it is answered: a service that is being replaced refuses connections."""
        key = {"Idempotency-Key": str(uuid.uuid4())}
        deadline = time.monotonic() + 90
        while True:
            try:
                return send(key)
            except (openai.APIConnectionError, openai.InternalServerError) as error:
                if getattr(error, "status_code", 503) == 500 or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)


def test_an_update_of_every_process_under_a_job_loses_nothing(
    stack: Scaled, tmp_path: Path
) -> None:
    stack.start_worker("a")
    undisturbed = stack.create_job(max_steps=STEPS)
    stack.wait_for_status(undisturbed, "succeeded", seconds=240)
    expected = weights_sha256(stack.adapter(undisturbed, tmp_path / "undisturbed"))
    stack.start_worker("b")

    job_id = stack.create_job(max_steps=STEPS)
    client = Client(stack, job_id)
    holders = []
    for worker in ("a", "b"):
        stack.wait_for_step(job_id, stack.job(job_id)["step"] + 3)
        assert stack.job(job_id)["status"] == "running"
        stack.replace("service", "service.serve")
        wait_for(stack.is_ready, seconds=60, what="the new service to be ready")
        stack.replace("sweeper", "service.sweeper")
        holders.append(stack.holder(job_id))
        assert stack.stop(worker) == 0
        stack.start_worker(worker)
    job = stack.wait_for_status(job_id, "succeeded", seconds=240)
    client.stop()

    assert job["attempt"] >= 2, holders
    assert_each_step_once(stack.metrics(job_id), STEPS)
    assert weights_sha256(stack.adapter(job_id, tmp_path / "updated")) == expected
    steps = [row["step"] for row in client.rows]
    assert steps == list(range(len(steps)))
    assert len(client.files) > 10
    for file_id, content in client.files.items():
        assert stack.client.files.content(file_id).content == content
    listed = {job.id for job in stack.client.fine_tuning.jobs.list(limit=100)}
    assert listed == {undisturbed, job_id, *client.jobs}
    for waiting in client.jobs:
        stack.wait_for_status(waiting, "succeeded", seconds=240)
