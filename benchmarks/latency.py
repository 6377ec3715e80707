"""From POST to the first completion, and what the service around the loop costs a step.

    python benchmarks/latency.py [--jobs 5] [--steps 100]

Starts `honed up` on a folder of its own with the starter model. After a job that warms the stack,
each of a few jobs is timed from the moment its POST is sent to its trainer's own note of the first
completion (the first token came before it). Then one longer job: what passes between the rows of
two steps beyond the later one's `step_time` is what the service costs (metrics, samples, events,
heartbeats, checkpoints). The last line is one JSON object.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import select

from jobs import starter
from jobs.db import connect, session_factory
from jobs.models import Event, Job, Metric
from jobs.settings import Settings

NUM_WARM_STEPS = 3
PATIENCE_SECONDS = 120.0

GRADER = {
    "type": "string_check",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


class Stack:
    """`honed up` on a folder, as a user speaks to it."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "up", "--data", str(folder), "--port", port],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HONED_OFFLINE": "true"},
        )
        assert self.process.stdout is not None
        url = next(line.split()[1] for line in self.process.stdout if line.startswith("ready "))
        key = (folder / "key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx2.Client(base_url=f"{url}/v1", headers=headers, timeout=PATIENCE_SECONDS)
        settings = Settings(data_dir=folder, database_url="")
        self.sessions = session_factory(connect(settings.sqlalchemy_url))

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait(60)

    def upload(self, rows: list[dict[str, Any]]) -> str:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        answer = self.http.post(
            "/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", text)}
        )
        return str(answer.raise_for_status().json()["id"])

    def post(self, train: str, valid: str | None, **hyperparameters: Any) -> tuple[str, float]:
        """A job's id, and when its POST was sent."""
        body = {
            "model": "honed/starter",
            "training_file": train,
            "validation_file": valid,
            "seed": 11,
            "method": {
                "type": "reinforcement",
                "reinforcement": {"grader": GRADER, "hyperparameters": hyperparameters},
            },
        }
        sent_at = time.time()
        answer = self.http.post("/fine_tuning/jobs", json=body).raise_for_status()
        return answer.json()["id"], sent_at

    def finished(self, job_id: str) -> Job:
        """The job's row, once it has succeeded."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            with self.sessions() as session:
                job = session.get_one(Job, job_id)
            if job.status == "succeeded":
                return job
            if job.finished_at is not None:
                raise SystemExit(f"{job_id} ended {job.status}: {job.error_message}")
            time.sleep(0.2)
        raise SystemExit(f"{job_id} has not ended within {PATIENCE_SECONDS:g} s")


def post_to_first(stack: Stack, train: str, valid: str) -> dict[str, float]:
    """Seconds from the POST to each station of a job on its way to the first completion."""
    job_id, sent_at = stack.post(train, valid, max_steps=1, max_completion_tokens=16)
    job = stack.finished(job_id)
    with stack.sessions() as session:
        query = select(Event).where(Event.job_id == job_id).order_by(Event.seq)
        created_at = session.scalars(query).first()
    assert created_at is not None
    assert job.validated_at is not None
    assert job.started_at is not None
    return {
        "created_s": created_at.created_at - sent_at,
        "validated_s": job.validated_at - sent_at,
        "claimed_s": job.started_at - sent_at,
        "first_completion_s": job.progress["first_completion_at"] - sent_at,
    }


def overhead(stack: Stack, train: str, *, num_steps: int) -> dict[str, float]:
    """What a job's steps took by themselves, and with the service around them."""
    job_id, _ = stack.post(
        train, None, max_steps=num_steps, batch_size=8, group_size=32, max_completion_tokens=24
    )
    stack.finished(job_id)
    with stack.sessions() as session:
        query = select(Metric).where(Metric.job_id == job_id).order_by(Metric.step)
        rows = [(row.created_at, row.data["step_time"]) for row in session.scalars(query)]
    rows = rows[NUM_WARM_STEPS:]
    walls = [later[0] - earlier[0] for earlier, later in pairwise(rows)]
    steps = [step_time for _, step_time in rows[1:]]
    return {
        "step_ms": 1000 * statistics.mean(steps),
        "overhead_ms": 1000 * (sum(walls) - sum(steps)) / len(steps),
        "overhead_percent": 100 * (sum(walls) / sum(steps) - 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=5, help="jobs whose first completion is timed")
    parser.add_argument("--steps", type=int, default=100, help="steps of the job for the overhead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "data")
        try:
            train = stack.upload(starter.arithmetic_rows(400, seed=3, split="train"))
            valid = stack.upload(starter.arithmetic_rows(64, seed=3, split="valid"))
            stack.finished(stack.post(train, valid, max_steps=1, max_completion_tokens=16)[0])
            timed = [post_to_first(stack, train, valid) for _ in range(options.jobs)]
            for one in timed:
                print("  ".join(f"{name} {seconds:.2f}" for name, seconds in one.items()))
            measured = overhead(stack, train, num_steps=options.steps)
        finally:
            stack.stop()
    median = {name: statistics.median(one[name] for one in timed) for name in timed[0]}
    print(json.dumps({
        "post_to_first_token_s": round(median["first_completion_s"], 3),
        "overhead_percent": round(measured["overhead_percent"], 2),
        "overhead_ms": round(measured["overhead_ms"], 2),
        "step_ms": round(measured["step_ms"], 1),
        "stations_s": {name: round(seconds, 3) for name, seconds in median.items()},
        "num_jobs": options.jobs,
        "num_steps": options.steps,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
