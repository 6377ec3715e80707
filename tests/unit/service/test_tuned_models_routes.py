"""Models that jobs made, and who may use them, over HTTP."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from envelope import error_of
from fastapi import FastAPI
from fastapi.testclient import TestClient

from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings

JOBS, MODELS, CHECKPOINTS = "/v1/fine_tuning/jobs", "/v1/models", "/v1/fine_tuning/checkpoints"


def quoted(name: str) -> str:
    """As OpenAI's client puts a name into a path."""
    return name.replace("%", "%25").replace("/", "%2F")


@pytest.fixture
def stranger(app: FastAPI, other_key: IssuedKey) -> Iterator[TestClient]:
    """A client of another project."""
    with TestClient(app, headers={"Authorization": f"Bearer {other_key.secret}"}) as client:
        yield client


@pytest.fixture
def tuned(client: TestClient, job_id: str, worker: Any) -> str:
    """The name of a finished job's model; it has checkpoints at the steps 2 and 4."""
    worker.finish(job_id, 2, 4)
    return str(client.get(f"{JOBS}/{job_id}").json()["fine_tuned_model"])


def tuned_ids(client: TestClient) -> list[str]:
    names = [model["id"] for model in client.get(MODELS).json()["data"]]
    return [name for name in names if name.startswith("ft:")]


class TestNames:
    def test_a_finished_job_and_each_checkpoint_is_a_model(
        self, client: TestClient, tuned: str, job_id: str, model_folder: Any, key: IssuedKey
    ) -> None:
        assert tuned == f"ft:{model_folder}:{key.project_id}::{job_id.removeprefix('ftjob-')}"
        assert tuned_ids(client) == [tuned, f"{tuned}:ckpt-step-4", f"{tuned}:ckpt-step-2"]
        listed = {model["id"]: model for model in client.get(MODELS).json()["data"]}
        for name in tuned_ids(client):
            for path in (name, quoted(name), name.replace(":", "%3A")):
                assert client.get(f"{MODELS}/{path}").json() == listed[name]
        assert listed[tuned]["owned_by"] == key.project_id
        page = client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
        assert [one["fine_tuned_model_checkpoint"] for one in page] == tuned_ids(client)[1:]

    def test_only_what_is_there(self, client: TestClient, tuned: str, job_id: str) -> None:
        for name in (
            f"{tuned}:ckpt-step-3",
            f"{tuned}:ckpt-step-04",
            tuned.replace("::", ":other:"),
            f"ft:x:y::{job_id.removeprefix('ftjob-')}",
            tuned[:-1],
            job_id,
        ):
            error = error_of(client.get(f"{MODELS}/{quoted(name)}"), 404)
            assert (error["code"], name in error["message"]) == ("model_not_found", True)

    def test_before_the_end_there_are_checkpoints_only(
        self, client: TestClient, job_id: str, worker: Any
    ) -> None:
        worker.claim(job_id)
        worker.checkpoint(job_id, 2)
        (name,) = tuned_ids(client)
        assert name.endswith(":ckpt-step-2")
        error_of(client.get(f"{MODELS}/{quoted(name.removesuffix(':ckpt-step-2'))}"), 404)

    @pytest.mark.parametrize("suffix", ["a/b c%", "x:ckpt-step-2", "\u4f60:", "permissions/"])
    def test_any_suffix(
        self, client: TestClient, body: dict[str, Any], worker: Any, suffix: str
    ) -> None:
        job_id = client.post(JOBS, json={**body, "suffix": suffix}).json()["id"]
        worker.finish(job_id, 2)
        name = client.get(f"{JOBS}/{job_id}").json()["fine_tuned_model"]
        assert f":{suffix}:" in name
        for model in (name, f"{name}:ckpt-step-2"):
            path = quoted(model)
            assert client.get(f"{MODELS}/{path}").json()["id"] == model
            assert client.get(f"{CHECKPOINTS}/{path}/permissions").status_code == 200


class TestDeletion:
    def test_a_checkpoint_goes_with_its_adapter(
        self, client: TestClient, tuned: str, job_id: str, settings: ServiceSettings
    ) -> None:
        folder = settings.artifacts_dir / "jobs" / job_id / "attempt-1"
        answer = client.delete(f"{MODELS}/{quoted(tuned)}:ckpt-step-2").json()
        assert answer == {"id": f"{tuned}:ckpt-step-2", "object": "model", "deleted": True}
        assert tuned_ids(client) == [tuned, f"{tuned}:ckpt-step-4"]
        assert [path.name for path in folder.iterdir()] == ["step-4"]
        error_of(client.delete(f"{MODELS}/{quoted(tuned)}:ckpt-step-2"), 404)

    def test_what_the_job_ended_with_is_not_deleted_as_its_last_checkpoint(
        self, client: TestClient, tuned: str, job_id: str
    ) -> None:
        error = error_of(client.delete(f"{MODELS}/{quoted(tuned)}:ckpt-step-4"), 400)
        assert (error["code"], error["param"]) == ("wrong_state", "model")
        assert f"Delete '{tuned}'" in error["message"]
        assert tuned in tuned_ids(client)
        assert client.get(f"{JOBS}/{job_id}/adapter").status_code == 200

    def test_what_the_job_ended_with(self, client: TestClient, tuned: str, job_id: str) -> None:
        assert client.delete(f"{MODELS}/{quoted(tuned)}").json()["deleted"] is True
        assert tuned_ids(client) == [f"{tuned}:ckpt-step-2"]
        error = error_of(client.get(f"{JOBS}/{job_id}/adapter"), 410)
        assert "deleted" in error["message"]
        assert client.get(f"{JOBS}/{job_id}").json()["status"] == "succeeded"

    def test_not_a_base_not_a_running_jobs(
        self, client: TestClient, job_id: str, worker: Any, model_folder: Any
    ) -> None:
        for name in ("honed/starter", str(model_folder)):
            error = error_of(client.delete(f"{MODELS}/{quoted(name)}"), 400)
            assert "base model" in error["message"]
        error_of(client.delete(f"{MODELS}/gpt-4o"), 404)
        worker.claim(job_id)
        worker.checkpoint(job_id, 2)
        (name,) = tuned_ids(client)
        error = error_of(client.delete(f"{MODELS}/{quoted(name)}"), 400)
        assert (error["code"], "is running" in error["message"]) == ("wrong_state", True)


@pytest.mark.on_both_databases
class TestPermissions:
    @pytest.fixture
    def url(self, tuned: str) -> str:
        return f"{CHECKPOINTS}/{quoted(tuned)}:ckpt-step-4/permissions"

    @pytest.fixture
    def share(self, client: TestClient, url: str, other_key: IssuedKey) -> Callable[..., Any]:
        def share(*project_ids: str, **headers: str) -> Any:
            ids = list(project_ids) or [other_key.project_id]
            return client.post(url, json={"project_ids": ids}, headers=headers)

        return share

    def test_a_permitted_project_sees_the_model_and_nothing_else(
        self,
        stranger: TestClient,
        tuned: str,
        job_id: str,
        share: Any,
        client: TestClient,
        url: str,
    ) -> None:
        assert tuned_ids(stranger) == []
        page = share().json()
        (permission,) = page["data"]
        assert permission["object"] == "checkpoint.permission"
        assert page["first_id"] == page["last_id"] == permission["id"]
        assert tuned_ids(stranger) == [tuned, f"{tuned}:ckpt-step-4"]
        error_of(stranger.get(f"{MODELS}/{quoted(tuned)}:ckpt-step-2"), 404)
        error_of(stranger.get(f"{JOBS}/{job_id}"), 404)
        for answer in (
            stranger.delete(f"{MODELS}/{quoted(tuned)}"),
            stranger.get(url),
            stranger.post(url, json={"project_ids": [permission["project_id"]]}),
        ):
            assert error_of(answer, 403)["code"] == "not_owner"

        deleted = client.delete(f"{url}/{permission['id']}").json()
        assert deleted == {
            "id": permission["id"],
            "object": "checkpoint.permission",
            "deleted": True,
        }
        assert tuned_ids(stranger) == []
        error = error_of(client.delete(f"{url}/{permission['id']}"), 404)
        assert error["code"] == "permission_not_found"

    def test_granting_twice_makes_one(
        self, share: Any, client: TestClient, key: IssuedKey, other_key: IssuedKey, url: str
    ) -> None:
        first = share().json()["data"]
        assert share(**{"Idempotency-Key": "none new"}).json()["data"] == first
        both = share(other_key.project_id, key.project_id, other_key.project_id).json()["data"]
        assert (len(both), both[0]) == (2, first[0])
        assert len(client.get(url).json()["data"]) == 2

    def test_the_same_request_and_another_under_one_key(
        self, share: Any, key: IssuedKey, client: TestClient, url: str
    ) -> None:
        first = share(**{"Idempotency-Key": "k"})
        again = share(**{"Idempotency-Key": "k"})
        assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
        error_of(share(key.project_id, **{"Idempotency-Key": "k"}), 422)
        assert len(client.get(url).json()["data"]) == 1

    def test_pages(
        self, share: Any, client: TestClient, key: IssuedKey, other_key: IssuedKey, url: str
    ) -> None:
        made = [share(one.project_id).json()["data"][0]["id"] for one in (key, other_key)]

        def ids(**query: Any) -> tuple[list[str], bool]:
            page = client.get(url, params=query).json()
            assert page["last_id"] == (page["data"][-1]["id"] if page["data"] else None)
            return [one["id"] for one in page["data"]], page["has_more"]

        assert ids() == (made[::-1], False)
        assert ids(order="ascending", limit=1) == (made[:1], True)
        assert ids(order="ascending", limit=1, after=made[0]) == (made[1:], False)
        assert ids(project_id=key.project_id) == (made[:1], False)
        assert ids(project_id="proj_x") == ([], False)
        assert error_of(client.get(url, params={"after": "cp_x"}), 404)["param"] == "after"
        assert error_of(client.get(url, params={"order": "desc"}), 400)["param"] == "order"

    @pytest.mark.parametrize(
        ("sent", "status", "param"),
        [
            ({}, 400, "project_ids"),
            ({"project_ids": []}, 400, "project_ids"),
            ({"project_ids": None}, 400, "project_ids"),
            ({"project_ids": [1]}, 400, "project_ids.0"),
            ({"project_ids": ["proj_x"]}, 404, "project_ids"),
        ],
    )
    def test_a_bad_body(
        self, client: TestClient, url: str, sent: dict[str, Any], status: int, param: str
    ) -> None:
        assert error_of(client.post(url, json=sent), status)["param"] == param
        assert client.get(url).json()["data"] == []

    def test_they_go_with_the_model(
        self, client: TestClient, stranger: TestClient, share: Any, tuned: str, url: str
    ) -> None:
        share()
        client.delete(f"{MODELS}/{quoted(tuned)}")
        assert tuned_ids(stranger) == []
        error_of(client.get(url), 404)
