"""A real job on a whole stack, watched: its numbers in `/metrics`, its ids in every log."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from stacks import Stack, stack
from waiting import wait_for

from jobs import starter

pytestmark = pytest.mark.slow

# Its own lines go where those of all processes go.
UP = 'exec {python} -m service.cli up --data "{folder}" --port {{port}} 2>&1'

GRADER = {
    "type": "string_check",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    folder = tmp_path / "data"
    command = UP.format(python=sys.executable, folder=folder)
    with stack(folder, "sh", "-c", command, log_format="json") as running:
        yield running


def test_a_job_is_seen_in_the_metrics_and_in_every_log(running: Stack) -> None:
    key = (running.folder / "key").read_text().strip()
    with openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key=key) as client:
        job_id, request_id = _submitted(client)
        job = wait_for(lambda: _if_over(client, job_id), seconds=240, what="the job's end")
        assert job.status == "succeeded", job.error
    rows = running.get(f"/v1/fine_tuning/jobs/{job_id}/metrics")["data"]
    _check_numbers(_scraped(running), rows)
    running.stop()
    assert {json.loads(line)["process"] for line in running.lines} == {"up"}
    _check_logs(running.folder / "logs", job_id, request_id, secret=key)


def _submitted(client: openai.OpenAI) -> tuple[str, str]:
    rows = starter.arithmetic_rows(8, seed=3, split="train")
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("rows.jsonl", text), purpose="fine-tune")
    answer: Any = client.fine_tuning.jobs.with_raw_response.create(
        model="honed/starter",
        training_file=file.id,
        method={
            "type": "reinforcement",
            "reinforcement": {
                "grader": GRADER,  # type: ignore[typeddict-item]
                "hyperparameters": {"max_steps": 3, "group_size": 4, "batch_size": 2},  # type: ignore[typeddict-unknown-key]
            },
        },
    )
    return answer.parse().id, answer.headers["x-request-id"]


def _if_over(client: openai.OpenAI, job_id: str) -> Any:
    job = client.fine_tuning.jobs.retrieve(job_id)
    return job if job.status in ("succeeded", "failed", "cancelled") else None


def _scraped(running: Stack) -> dict[str, float]:
    url = f"http://127.0.0.1:{running.port}/metrics"
    with urllib.request.urlopen(url, timeout=30) as response:
        text = response.read().decode()
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    return {
        " ".join([one.name, *(f"{k}={v}" for k, v in sorted(one.labels.items()))]): one.value
        for one in samples
    }


def _check_numbers(numbers: dict[str, float], rows: list[dict[str, Any]]) -> None:
    steps = [row for row in rows if row["step"]]
    assert len(steps) == 3
    assert numbers["grpo_jobs state=succeeded"] == 1
    assert numbers["grpo_job_ends_total reason= state=succeeded"] == 1
    assert numbers["grpo_job_queue_seconds_count"] == 1
    assert numbers["grpo_job_step_seconds_count"] == 3
    taken = sum(row["step_time"] for row in steps)
    assert numbers["grpo_job_step_seconds_sum"] == pytest.approx(taken)
    drawn = sum(round(row["groups/refill_ratio"] * 2) * 4 for row in steps)
    calls = numbers["grpo_reward_call_seconds_count kind=string_check"]
    assert calls == drawn == numbers["grpo_reward_call_seconds_bucket kind=string_check le=+Inf"]
    posts = "grpo_http_requests_total method=POST route=/v1/fine_tuning/jobs status=200"
    assert numbers[posts] == 1
    assert numbers["grpo_outbox_pending"] == 0
    assert numbers["grpo_database_up"] == 1


def _parsed(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        # Celery's signal handler writes past all logging.
        if line not in ("", "worker: Warm shutdown (MainProcess)"):
            yield json.loads(line)


def _check_logs(folder: Path, job_id: str, request_id: str, *, secret: str) -> None:
    texts = {path.name: path.read_text() for path in folder.rglob("*.log")}
    assert {"service.log", "sweeper.log", "worker.log", "attempt-1.log"} <= set(texts)
    assert [name for name, text in texts.items() if secret in text] == []
    lines = {name: list(_parsed(text)) for name, text in texts.items()}
    every = [line for found in lines.values() for line in found]
    assert {"service", "worker"} <= {line["process"] for line in every}
    asked = next(line for line in lines["service.log"] if line.get("job_id") == job_id)
    assert asked["request_id"] == request_id
    supervised = [line for line in lines["worker.log"] if line.get("job_id") == job_id]
    trained = lines["attempt-1.log"]
    for line in [one for one in (*supervised, *trained) if "attempt" in one]:
        assert (line["request_id"], line["job_id"], line["attempt"]) == (request_id, job_id, 1)
    assert {line["process"] for line in trained} <= {"trainer"}
    assert any("attempt 1 started" in line["message"] for line in supervised)
    loggers = {line["logger"] for line in every}
    assert any(name.startswith("uvicorn") for name in loggers)
    assert any(name.startswith("celery") for name in loggers)
