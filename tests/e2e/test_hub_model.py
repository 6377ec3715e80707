"""A job on a model from a hub: downloaded in a phase of its own, pinned, and there offline."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hub_server
import pytest
from embedded import Stack, start, stop
from waiting import wait_for

from jobs.registry import STARTER_FOLDER

NAME = "org/tiny"
SMALL = {"max_steps": 2, "eval_samples": 4}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[hub_server.Hub]:
    folder = tmp_path / "repository"
    shutil.copytree(STARTER_FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    with hub_server.running() as hub:
        hub.repos[NAME] = hub_server.Repo(folder)
        yield hub


@contextmanager
def running(tmp_path: Path, url: str, **environment: str) -> Iterator[Stack]:
    stack = start(tmp_path / "data", HF_ENDPOINT=url, HF_HOME=str(tmp_path / "hf"), **environment)
    try:
        yield stack
    finally:
        stop(stack)


@pytest.mark.slow
def test_a_hub_model_is_fetched_pinned_and_there_offline(
    hub: hub_server.Hub, tmp_path: Path
) -> None:
    commit = hub.repos[NAME].commit()
    with running(tmp_path, hub.url) as stack:
        hub.seconds_a_chunk = 60.0
        job_id = stack.create_job(model=NAME, **SMALL)

        def downloading() -> bool:
            job = stack.job(job_id)
            return job["phase"] == "downloading" and job["progress"]["total"] > 3_000_000

        wait_for(downloading, seconds=60, what="the download")
        stack.client.fine_tuning.jobs.pause(job_id)
        stack.wait_for_status(job_id, "paused", seconds=30)
        assert list((tmp_path / "hf").rglob("*.incomplete")) == []

        hub.seconds_a_chunk = 0.2
        stack.client.fine_tuning.jobs.resume(job_id)
        stack.wait_for_status(job_id, "succeeded")
        adapter = stack.adapter(job_id, tmp_path / "adapter")
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == (NAME, commit)

        gone = stack.create_job(model="org/none", **SMALL)
        job = stack.wait_for_status(gone, "failed")
        assert job["error"]["code"] == "model_not_available"
        assert "not on the hub" in job["error"]["message"]

    num_requests = len(hub.requests)
    with running(tmp_path, hub.url, HONED_OFFLINE="1") as stack:
        job_id = stack.create_job(model=NAME, **SMALL)
        stack.wait_for_status(job_id, "succeeded")
    assert len(hub.requests) == num_requests
