"""The embedded stack as a user starts it, and the unmodified client to speak to it."""

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil

from jobs import starter

TERMINAL = ("succeeded", "failed", "cancelled")

GRADER = {
    "type": "multi",
    "graders": {
        "correct": {
            "type": "string_check",
            "input": "{{sample.output_text}}",
            "reference": "{{item.answer}}",
            "operation": "eq",
        },
        "short": {
            "type": "length",
            "input": "{{sample.output_text}}",
            "unit": "characters",
            "max": 6,
        },
    },
    "calculate_output": "0.9 * correct + 0.1 * short",
}


def wait_for(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """The condition's first true value, asked until the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


@dataclass
class Stack:
    folder: Path
    port: int
    process: subprocess.Popen[str]
    client: openai.OpenAI = field(init=False)

    def __post_init__(self) -> None:
        key = (self.folder / "key").read_text().strip()
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key)

    def upload(self, rows: list[dict[str, Any]]) -> str:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        return self.client.files.create(file=("rows.jsonl", text.encode()), purpose="fine-tune").id

    def create_job(
        self,
        *,
        model: str = "honed/starter",
        grader: dict[str, Any] = GRADER,
        **hyperparameters: Any,
    ) -> str:
        """A job with small evaluations."""
        body = {
            "max_steps": 20,
            "max_completion_tokens": 16,
            "eval_samples": 32,
            **hyperparameters,
        }
        return self.client.fine_tuning.jobs.create(
            model=model,
            training_file=self.upload(starter.arithmetic_rows(400, seed=3, split="train")),
            validation_file=self.upload(starter.arithmetic_rows(64, seed=3, split="valid")),
            seed=11,
            method={
                "type": "reinforcement",
                "reinforcement": {"grader": grader, "hyperparameters": body},
            },
        ).id

    def get(self, path: str, **params: Any) -> Any:
        return self.client.get(path, cast_to=object, options={"params": params})

    def job(self, job_id: str) -> Any:
        return self.get(f"/fine_tuning/jobs/{job_id}")

    def metrics(self, job_id: str) -> list[dict[str, Any]]:
        return self.get(f"/fine_tuning/jobs/{job_id}/metrics", after_step=-1, limit=1000)["data"]

    def wait_for_status(self, job_id: str, *wanted: str, seconds: float = 120) -> Any:
        def reached() -> Any:
            job = self.job(job_id)
            if job["status"] in wanted:
                return job
            assert job["status"] not in TERMINAL, f"ended {job['status']}: {job['error']}"
            return None

        return wait_for(reached, seconds=seconds, what=f"{job_id} to be {' or '.join(wanted)}")

    def wait_for_step(self, job_id: str, step: int, *, seconds: float = 120) -> Any:
        def reached() -> Any:
            job = self.job(job_id)
            assert job["status"] not in TERMINAL, f"ended {job['status']}: {job['error']}"
            return job if job["step"] >= step else None

        return wait_for(reached, seconds=seconds, what=f"{job_id} to reach step {step}")

    def processes(self, module: str) -> list[psutil.Process]:
        """Descendants of this stack that run `python -m module`."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if module in child.cmdline():
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def adapter(self, job_id: str, target: Path) -> Path:
        """Download and unpack a job's adapter."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/fine_tuning/jobs/{job_id}/adapter",
            headers={"Authorization": f"Bearer {self.client.api_key}"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            archive = response.read()
        assert response.headers["ETag"] == f'"{hashlib.sha256(archive).hexdigest()}"'
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(target, filter="data")
        return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, **environment: str) -> Stack:
    """`honed up` on the folder; returns once it says it is ready."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "up", "--data", str(folder), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready "):
            return Stack(folder, port, process)
    raise AssertionError(f"honed up ended with {process.wait()} before it was ready")


def stop(stack: Stack) -> None:
    """SIGTERM; everything it started must be gone."""
    children = psutil.Process(stack.process.pid).children(recursive=True)
    stack.process.send_signal(signal.SIGTERM)
    try:
        assert stack.process.wait(40) == 0
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == [], "left behind after SIGTERM"
    finally:
        for process in children:
            if process.is_running():
                process.kill()
        stack.process.kill()
        stack.process.wait()
        stack.process.stdout.close()
        stack.client.close()
