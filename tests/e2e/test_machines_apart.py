"""Workers that share no file system: what one saved another goes on from, and anybody serves."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from apart import Apart, start
from user import assert_each_step_once, weights_sha256
from waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    running = start(tmp_path_factory.mktemp("apart"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def undisturbed(stack: Apart, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A job that nothing interrupts, and its adapter: what every disturbed one must equal."""
    stack.start_worker("first")
    job_id = create_job(stack)
    stack.wait_for_status(job_id, "succeeded", seconds=240)
    stack.stop("first")
    return job_id, stack.adapter(job_id, tmp_path_factory.mktemp("undisturbed") / "adapter")


def create_job(stack: Apart) -> str:
    return stack.create_job(max_steps=STEPS, checkpoint_interval=4, eval_interval=10)


def checkpoints(stack: Apart, job_id: str) -> list[Any]:
    return list(stack.client.fine_tuning.jobs.checkpoints.list(job_id, limit=50))


def events(stack: Apart, job_id: str) -> list[str]:
    page = stack.client.fine_tuning.jobs.list_events(job_id, limit=100)
    return [event.message for event in page]


def test_another_machine_goes_on_from_a_killed_ones_checkpoint(
    stack: Apart, undisturbed: tuple[str, Path], tmp_path: Path
) -> None:
    stack.start_worker("a")
    job_id = create_job(stack)
    wait_for(lambda: checkpoints(stack, job_id), seconds=120, what="the first checkpoint")
    stack.kill("a")
    stack.start_worker("b")
    stack.wait_for_status(job_id, "succeeded", seconds=240)
    assert stack.job(job_id)["attempt"] > 1
    assert any(one.startswith("Resumed from the checkpoint") for one in events(stack, job_id))
    assert_each_step_once(stack.metrics(job_id), STEPS)
    adapter = stack.adapter(job_id, tmp_path / "adapter")
    assert weights_sha256(adapter) == weights_sha256(undisturbed[1])

    def is_clean() -> bool:
        """No state of a job that is over, no half folder, nothing on its way."""
        names = stack.kept.names(f"jobs/{job_id}/")
        folders = {name.rpartition("/manifest.json")[0] for name in names if "manifest" in name}
        half = [name for name in names if "/".join(name.split("/")[:4]) not in folders]
        states = [name for name in names if "/state/" in name]
        return not states and not half and len(folders) == len(checkpoints(stack, job_id))

    wait_for(is_clean, seconds=60, what="the removal of what a finished job does not need")
    stack.stop("b")
    for name in ("b", "service", "sweeper"):
        assert stack.left_behind(name) == []


def test_what_the_service_took_and_a_worker_made_is_served_from_the_bucket(
    stack: Apart, undisturbed: tuple[str, Path]
) -> None:
    rows = b'{"messages": [{"role": "user", "content": "1 + 1"}]}\n' * 7
    file = stack.client.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
    assert stack.client.files.content(file.id).read() == rows
    assert stack.kept.read(f"files/{file.id}") == rows
    stack.client.files.delete(file.id)
    assert stack.kept.names(f"files/{file.id}") == []

    job_id, _ = undisturbed
    whole = download(stack, job_id)
    tag = whole["etag"]
    part = download(stack, job_id, Range="bytes=1000-", **{"If-Range": tag})
    assert part["body"] == whole["body"][1000:]
    assert part["content-range"].startswith("bytes 1000-")
    assert download(stack, job_id, **{"If-None-Match": tag})["status"] == 304


def download(stack: Apart, job_id: str, **headers: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{stack.url}/v1/fine_tuning/jobs/{job_id}/adapter",
        headers={"Authorization": f"Bearer {stack.client.api_key}", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            named = {name.lower(): value for name, value in response.headers.items()}
            return {**named, "body": response.read(), "status": response.status}
    except urllib.error.HTTPError as error:
        return {"status": error.code}


def test_chat_goes_through_an_adapter_that_another_machine_made(
    stack: Apart, undisturbed: tuple[str, Path]
) -> None:
    stack.start("serving", "worker.serve")
    name = stack.job(undisturbed[0])["fine_tuned_model"]
    patient = stack.client.with_options(max_retries=20)
    answer = patient.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "What is 2 + 2?"}], max_tokens=8
    )
    assert answer.choices[0].message.content
    (entry,) = (stack.data_dir("serving") / "artifacts-cache" / "adapters").iterdir()
    assert (entry / "adapter" / "adapter_model.safetensors").is_file()
    stack.stop("serving")
    assert stack.left_behind("serving") == []


def test_a_bucket_that_is_away_is_waited_for(
    stack: Apart, undisturbed: tuple[str, Path], tmp_path: Path
) -> None:
    stack.start_worker("c")
    job_id = create_job(stack)
    stack.wait_for_step(job_id, 2)
    stack.gate.cut()
    try:
        impatient = stack.client.with_options(max_retries=0)
        with pytest.raises(openai.InternalServerError, match="artifact store") as caught:
            impatient.files.create(file=("rows.jsonl", b"{}\n"), purpose="fine-tune")
        assert (caught.value.status_code, caught.value.code) == (503, "artifact_store_unavailable")
        assert int(caught.value.response.headers["retry-after"]) > 0
        assert not stack.is_ready()
        logs = stack.data_dir("c") / "logs" / "jobs" / job_id

        def has_met_it() -> bool:
            return any("was not taken" in log.read_text() for log in logs.glob("attempt-*.log"))

        wait_for(has_met_it, seconds=120, what="a checkpoint that could not be kept")
    finally:
        stack.gate.open()
    job = stack.wait_for_status(job_id, "succeeded", seconds=300)
    assert job["error"] is None
    assert_each_step_once(stack.metrics(job_id), STEPS)
    adapter = stack.adapter(job_id, tmp_path / "adapter")
    assert weights_sha256(adapter) == weights_sha256(undisturbed[1])
    stack.stop("c")
    assert stack.left_behind("c") == []
