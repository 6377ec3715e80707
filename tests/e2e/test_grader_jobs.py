"""Jobs whose rewards come from elsewhere, through the whole stack: a judge, an endpoint, limits."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import embedded
import pytest
from embedded import Stack
from peer_server import Asked, Peer, Says, verdict
from standardwebhooks.webhooks import Webhook
from waiting import wait_for

pytestmark = pytest.mark.slow

JUDGED = {
    "type": "score_model",
    "name": "judged",
    "model": "strict",
    "input": [{"role": "user", "content": "{{item.answer}} or {{sample.output_text}}"}],
}
STEPS = 20
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def answer(asked: Asked) -> Says:
    """As judge: right answers get 1. As endpoint: the same."""
    if asked.path.startswith("/grade"):
        body = asked.body
        return Says({"score": float(body["sample"]["output_text"] == body["item"]["answer"])})
    right, _, text = asked.last_text.partition(" or ")
    return Says(verdict(float(text == right), tokens=(20, 10, 0)))


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    peer = Peer(answer)
    yield peer
    peer.stop()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, peer: Peer) -> Iterator[Stack]:
    at = {"base_url": f"{peer.url}/v1", "max_retries": 8}
    judges = {"strict": {**at, "timeout_seconds": 10}, "brief": {**at, "timeout_seconds": 1}}
    stack = embedded.start(
        tmp_path_factory.mktemp("graders"),
        HONED_JUDGES=json.dumps(judges),
        HONED_OUTBOUND_ALLOW=f"127.0.0.1:{peer.port}",
        HONED_ENDPOINT_SECRET=SECRET,
    )
    yield stack
    embedded.stop(stack)


def rewards(stack: Stack, job_id: str) -> list[float]:
    rows = stack.metrics(job_id)
    return [row["reward"] for row in rows if row.get("reward") is not None]


def assert_it_rose(values: list[float]) -> None:
    assert fmean(values[-5:]) > fmean(values[:5]) + 0.1, values


def test_a_job_with_a_judge_learns_and_asks_nothing_twice(stack: Stack, peer: Peer) -> None:
    peer.asked.clear()
    job_id = stack.create_job(grader=JUDGED, max_steps=STEPS)
    stack.wait_for_status(job_id, "succeeded", seconds=240)
    assert_it_rose(rewards(stack, job_id))
    asked = [one.raw for one in peer.asked]
    assert len(asked) == len(set(asked))
    row = stack.metrics(job_id)[-1]
    assert row["rewards/judged/mean"] == pytest.approx(row["reward"])
    assert row["rewards/judged/advantage_share"] == pytest.approx(1.0)
    assert row["rewards/judged/seconds_p95"] >= row["rewards/judged/seconds_p50"] > 0
    counted = sum(
        one.get("judges/strict/requests", 0) + one.get("eval_judges/strict/requests", 0)
        for one in stack.metrics(job_id)
    )
    assert counted == len(asked)
    job = stack.job(job_id)
    assert job["spent"]["judge_requests"] == len(asked)
    assert job["spent"]["judge_tokens"] == 30 * len(asked)


def endpoint_secret(stack: Stack) -> str:
    """As the operator tells it to those who run the project's endpoints."""
    command = [sys.executable, "-m", "service.cli", "projects", "endpoint-secret", "default"]
    told = subprocess.run(
        [*command, "--data", str(stack.folder)],
        env={**os.environ, "HONED_ENDPOINT_SECRET": SECRET},
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


def killed_and_reborn(peer: Peer) -> None:
    """Connections are cut, and for half a second nobody listens."""
    port = peer.port
    peer.stop()
    time.sleep(0.5)
    peer.__dict__.update(Peer(peer.behaviour, port=port).__dict__)


def assert_only_what_was_in_flight_is_lost(stack: Stack, job_id: str, name: str) -> None:
    values = rewards(stack, job_id)
    assert len(values) == STEPS
    assert_it_rose(values)
    failed = [row.get(f"rewards/{name}/error_ratio", 0) for row in stack.metrics(job_id)]
    assert sum(ratio > 0 for ratio in failed) <= 2


def test_a_judge_that_hangs_hangs_up_and_dies_costs_what_was_in_flight(
    stack: Stack, peer: Peer
) -> None:
    peer.asked.clear()
    job_id = stack.create_job(grader={**JUDGED, "model": "brief"}, max_steps=STEPS)
    stack.wait_for_step(job_id, 3)
    peer.behaviour = lambda asked: Says({}, delay_seconds=2.5)
    wait_for(lambda: peer.num_busy > 0, seconds=60, what="questions that hang")
    time.sleep(1.5)
    peer.behaviour = lambda asked: Says(hangs_up=True)
    time.sleep(1.0)
    peer.behaviour = answer
    stack.wait_for_step(job_id, 8)
    before = list(peer.asked)
    killed_and_reborn(peer)
    job = stack.wait_for_status(job_id, "succeeded", seconds=240)
    assert job["attempt"] == 1
    assert_only_what_was_in_flight_is_lost(stack, job_id, "judged")
    asked = [one.raw for one in before + peer.asked]
    # Each try counts, also those that nobody heard while the judge was dead.
    assert job["spent"]["judge_requests"] >= len(asked) > len(set(asked))


def test_an_endpoint_that_dies_and_comes_back_costs_what_was_in_flight(
    stack: Stack, peer: Peer, tmp_path: Path
) -> None:
    grader = {
        "type": "endpoint",
        "url": f"{peer.url}/grade?key=hush",
        "headers": {"X-Key": "hush"},
    }
    job_id = stack.create_job(grader=grader, max_steps=STEPS)
    stack.wait_for_step(job_id, 3)
    killed_and_reborn(peer)
    stack.wait_for_status(job_id, "succeeded", seconds=240)
    assert_only_what_was_in_flight_is_lost(stack, job_id, "endpoint")
    assert {one.path for one in peer.asked} == {"/grade?key=hush"}
    secret = endpoint_secret(stack)
    for asked in (peer.asked[0], peer.asked[-1]):
        Webhook(secret).verify(asked.raw, asked.headers)
    shown = stack.job(job_id)["method"]["reinforcement"]["grader"]
    assert shown["headers"] == {"X-Key": "<hidden>"}
    assert shown["url"] == f"{peer.url}/grade?key=<hidden>"
    adapter = stack.adapter(job_id, tmp_path)
    assert all(b"hush" not in file.read_bytes() for file in adapter.rglob("*") if file.is_file())


def test_at_its_limit_a_job_is_paused_and_a_resume_goes_on(stack: Stack, peer: Peer) -> None:
    peer.asked.clear()
    limits = {"max_judge_requests": 150}
    job_id = stack.create_job(grader=JUDGED, max_steps=STEPS, eval_samples=8, limits=limits)
    job = stack.wait_for_status(job_id, "paused", seconds=240)
    assert job["reason"] == "limit_reached"
    assert len(peer.asked) <= 150
    stopped_at = job["step"]
    checkpoints = stack.get(f"/fine_tuning/jobs/{job_id}/checkpoints")["data"]
    assert checkpoints[0]["step_number"] == stopped_at > 0
    assert job["spent"]["judge_requests"] == 150
    stack.client.fine_tuning.jobs.resume(job_id)

    def went_on() -> Any:
        job = stack.job(job_id)
        return job["step"] > stopped_at and job["status"] in ("paused", "succeeded")

    wait_for(went_on, seconds=240, what="the resumed job to go on")
    asked = [one.raw for one in peer.asked]
    assert len(asked) == len(set(asked))
    assert len(asked) <= 300


def test_a_judge_that_is_gone_for_good_ends_the_job_with_the_reason(stack: Stack) -> None:
    job_id = stack.create_job(
        grader={"type": "endpoint", "url": "https://gone.invalid/", "timeout_seconds": 1},
        max_steps=STEPS,
    )

    def ended() -> Any:
        job = stack.job(job_id)
        return job if job["status"] == "failed" else None

    job = wait_for(ended, seconds=240, what="the job to fail")
    assert job["error"]["code"] == "grader_failed"
    assert "gone.invalid" in job["error"]["message"]
