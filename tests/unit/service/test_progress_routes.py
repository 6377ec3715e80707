"""Events, metrics, samples, checkpoints and adapters over HTTP."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from kept import Kept
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ADAPTER_ARCHIVE
from jobs.db import transaction
from jobs.store import events, metrics

pytestmark = pytest.mark.on_both_databases

JOBS = "/v1/fine_tuning/jobs"


class TestEvents:
    def test_newest_first_and_back_in_time(
        self, client: TestClient, job_id: str, sessions: sessionmaker[Session]
    ) -> None:
        with transaction(sessions) as session:
            for step in range(3):
                events.add(session, job_id, f"Step {step}", type="metrics", data={"step": step})
            events.add(session, job_id, "careful", level="warn")
        page = client.get(f"{JOBS}/{job_id}/events", params={"limit": 2}).json()
        newest, second = page["data"]
        assert newest == {
            "id": f"ftevent-{job_id.removeprefix('ftjob-')}-6",
            "object": "fine_tuning.job.event",
            "created_at": newest["created_at"],
            "level": "warn",
            "message": "careful",
            "type": "message",
            "data": None,
        }
        assert (second["type"], second["data"]) == ("metrics", {"step": 2})
        assert page["has_more"]
        rest = client.get(f"{JOBS}/{job_id}/events", params={"after": second["id"]}).json()
        assert [event["message"] for event in rest["data"]][:2] == ["Step 1", "Step 0"]
        assert (len(rest["data"]), rest["has_more"]) == (4, False)

    @pytest.mark.parametrize("after", ["x", "ftevent-abc-1", "{}-x", "{}-1-2", "{}-9999999999"])
    def test_an_id_that_is_none_is_refused(
        self, client: TestClient, job_id: str, after: str
    ) -> None:
        after = after.format(f"ftevent-{job_id.removeprefix('ftjob-')}")
        error = error_of(client.get(f"{JOBS}/{job_id}/events", params={"after": after}), 400)
        assert error["param"] == "after"


class TestMetrics:
    def test_rows_after_a_step(
        self, client: TestClient, job_id: str, sessions: sessionmaker[Session]
    ) -> None:
        with transaction(sessions) as session:
            for step in range(4):
                data = {"reward": step / 10, "kl": float("nan")}
                metrics.put(session, job_id, step=step, attempt=1, data=data)

        def get(**query: int) -> dict[str, Any]:
            return dict(client.get(f"{JOBS}/{job_id}/metrics", params=query).json())

        assert [row["step"] for row in get()["data"]] == [0, 1, 2, 3]
        assert get(after_step=-1, limit=1) == {
            "object": "list",
            "data": [{"step": 0, "reward": 0.0, "kl": None}],
            "has_more": True,
        }
        assert [row["step"] for row in get(after_step=1)["data"]] == [2, 3]
        assert get(after_step=3) == {"object": "list", "data": [], "has_more": False}

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ("after_step=-2", "after_step"),
            ("after_step=x", "after_step"),
            (f"after_step={10**30}", "after_step"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
        ],
    )
    def test_a_bad_query(self, client: TestClient, job_id: str, query: str, param: str) -> None:
        assert error_of(client.get(f"{JOBS}/{job_id}/metrics?{query}"), 400)["param"] == param


class TestSamples:
    def test_of_a_step_or_the_latest(
        self, client: TestClient, job_id: str, sessions: sessionmaker[Session]
    ) -> None:
        url = f"{JOBS}/{job_id}/samples"
        assert client.get(url).json() == {
            "object": "list",
            "step": None,
            "data": [],
            "has_more": False,
        }
        assert "none yet" in error_of(client.get(url, params={"step": 3}), 404)["message"]
        with transaction(sessions) as session:
            for step in (3, 7):
                metrics.put_samples(session, job_id, step=step, attempt=1, samples=[{"n": step}])
        assert client.get(url).json()["step"] == 7
        assert client.get(url, params={"step": 3}).json()["data"] == [{"n": 3}]
        assert "step 7" in error_of(client.get(url, params={"step": 4}), 404)["message"]
        assert error_of(client.get(url, params={"step": -1}), 400)["param"] == "step"


class TestCheckpoints:
    def test_shown_with_their_models_names(
        self, client: TestClient, job_id: str, worker: Any
    ) -> None:
        archives = {step: worker.checkpoint(job_id, step) for step in (0, 10)}
        page = client.get(f"{JOBS}/{job_id}/checkpoints").json()
        newest, oldest = page["data"]
        job = client.get(f"{JOBS}/{job_id}").json()
        name = f"ft:{job['model']}:{job['organization_id']}::{job_id.removeprefix('ftjob-')}"
        assert newest == {
            "id": newest["id"],
            "object": "fine_tuning.job.checkpoint",
            "created_at": newest["created_at"],
            "fine_tuned_model_checkpoint": f"{name}:ckpt-step-10",
            "fine_tuning_job_id": job_id,
            "step_number": 10,
            "metrics": {"step": 10, "valid_reward_mean": 0.5, "full_valid_mean_reward": 0.5},
            "bytes": len(archives[10]),
            "sha256": hashlib.sha256(archives[10]).hexdigest(),
        }
        assert newest["id"].startswith("ftckpt_")
        assert (page["first_id"], page["last_id"]) == (newest["id"], oldest["id"])
        query = {"after": newest["id"]}
        rest = client.get(f"{JOBS}/{job_id}/checkpoints", params=query).json()
        assert [checkpoint["id"] for checkpoint in rest["data"]] == [oldest["id"]]


@pytest.mark.on_both_stores
class TestAdapter:
    def test_none_yet_is_a_sentence(self, client: TestClient, job_id: str) -> None:
        error = error_of(client.get(f"{JOBS}/{job_id}/adapter"), 404)
        assert (error["code"], "no adapter yet" in error["message"]) == ("no_checkpoint", True)

    def test_the_newest_checkpoint_is_the_adapter(
        self,
        client: TestClient,
        job_id: str,
        worker: Any,
        names_in: Callable[[bytes], list[str]],
    ) -> None:
        first = worker.checkpoint(job_id, 0, b"first")
        last = worker.checkpoint(job_id, 10, b"last")
        answer = client.get(f"{JOBS}/{job_id}/adapter")
        assert answer.content == last
        assert names_in(answer.content) == ["adapter_model.safetensors"]
        digest = hashlib.sha256(last).hexdigest()
        assert answer.headers["etag"] == f'"{digest}"'
        assert answer.headers["x-checksum-sha256"] == digest
        assert answer.headers["content-type"] == "application/x-tar"
        assert f'filename="{job_id}-step-10.tar"' in answer.headers["content-disposition"]
        oldest = client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"][-1]["id"]
        assert client.get(f"{JOBS}/{job_id}/checkpoints/{oldest}/adapter").content == first

    def test_an_unknown_checkpoint(self, client: TestClient, job_id: str) -> None:
        error = error_of(client.get(f"{JOBS}/{job_id}/checkpoints/ftckpt_x/adapter"), 404)
        assert error["code"] == "checkpoint_not_found"

    def test_ranges(self, client: TestClient, job_id: str, worker: Any) -> None:
        archive = worker.checkpoint(job_id, 10)
        url, size = f"{JOBS}/{job_id}/adapter", len(archive)

        def get(value: str, **headers: str) -> Any:
            return client.get(url, headers={"Range": value, **headers})

        for value, expected in (
            ("bytes=0-9", archive[:10]),
            ("bytes=100-", archive[100:]),
            ("bytes=-7", archive[-7:]),
            (f"bytes=5-{size * 2}", archive[5:]),
        ):
            answer = get(value)
            assert (answer.status_code, answer.content) == (206, expected)
            assert answer.headers["content-range"].endswith(f"/{size}")
        several = get("bytes=0-3, 100-102, 2-7")
        assert several.status_code == 206
        assert several.headers["content-type"].startswith("multipart/byteranges; boundary=")
        assert int(several.headers["content-length"]) == len(several.content)
        for first, end in ((0, 8), (100, 103)):
            shown = f"Content-Range: bytes {first}-{end - 1}/{size}\r\n\r\n".encode()
            assert shown + archive[first:end] + b"\r\n--" in several.content
        etag = answer.headers["etag"]
        assert get("bytes=0-9", **{"If-Range": etag}).status_code == 206
        assert get("bytes=0-9", **{"If-Range": '"other"'}).content == archive
        for value in (f"bytes={size}-", "bytes=-0"):
            assert error_of(get(value), 416)["code"] == "range_not_satisfiable"
        for value in ("bytes", "bytes=", "bytes=x-y", "items=0-1", "bytes=9-5", "bytes=0-1,"):
            assert "Range" in error_of(get(value), 400)["message"]

    def test_an_archive_that_one_has_is_not_sent_again(
        self, client: TestClient, job_id: str, worker: Any
    ) -> None:
        archive = worker.checkpoint(job_id, 10)
        url, digest = f"{JOBS}/{job_id}/adapter", hashlib.sha256(archive).hexdigest()
        for value in (f'"{digest}"', f'W/"{digest}"', f'"x", "{digest}"', "*"):
            answer = client.get(url, headers={"If-None-Match": value})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == f'"{digest}"'
        assert client.get(url, headers={"If-None-Match": '"x"'}).status_code == 200

    def test_an_archive_that_vanished_or_was_cut(
        self, client: TestClient, job_id: str, worker: Any, kept: Kept
    ) -> None:
        worker.checkpoint(job_id, 10)
        name = f"jobs/{job_id}/attempt-1/step-10/{ADAPTER_ARCHIVE}"
        kept.write(name, kept.read(name)[:-1])
        error = error_of(client.get(f"{JOBS}/{job_id}/adapter"), 410)
        assert (error["code"], "damaged" in error["message"]) == ("artifact_missing", True)
        kept.delete(name)
        error = error_of(client.get(f"{JOBS}/{job_id}/adapter"), 410)
        assert "no longer in the artifact store" in error["message"]
