"""Base models over HTTP."""

from pathlib import Path

import pytest
from envelope import error_of
from fastapi.testclient import TestClient

from jobs.registry import STARTER, STARTER_FOLDER


def test_listed_are_the_starter_and_the_operators_folders(
    client: TestClient, model_folder: Path
) -> None:
    pickled = model_folder.parent / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    nested = model_folder.parent / "org" / "small"
    nested.mkdir(parents=True)
    (nested / "config.json").write_text("{}")
    (nested / "model-00001-of-00002.safetensors").write_bytes(b"")
    page = client.get("/v1/models").json()
    assert page["object"] == "list"
    assert [(model["id"], model["owned_by"]) for model in page["data"]] == [
        (STARTER, "honed"),
        (str(nested), "operator"),
        (str(model_folder), "operator"),
    ]
    created = int((STARTER_FOLDER / "config.json").stat().st_mtime)
    assert page["data"][0] == {
        "id": STARTER,
        "object": "model",
        "created": created,
        "owned_by": "honed",
    }


def in_cache(cache: Path, repo: str, revision: str, *files: str) -> Path:
    snapshot = cache / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for name in files:
        (snapshot / name).write_text('{"weight_map": {"a": "one.safetensors", "b": "two"}}')
    return snapshot


def test_listed_is_what_was_pulled_from_a_hub_whole(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    in_cache(tmp_path, "org/small", "a1", "config.json", "model.safetensors")
    in_cache(tmp_path, "org/small", "b2", "config.json", "model.safetensors")
    in_cache(tmp_path, "org/tokenizer", "c3", "config.json", "tokenizer.json")
    shards = ("config.json", "model.safetensors.index.json", "one.safetensors")
    in_cache(tmp_path, "org/half", "d4", *shards)
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert {name for name in listed if not name.startswith("/")} == {STARTER, "org/small"}
    assert listed["org/small"]["owned_by"] == "org"
    assert client.get("/v1/models/org%2Fsmall").json() == listed["org/small"]
    error_of(client.get("/v1/models/org%2Fhalf"), 404)
    error = error_of(client.delete("/v1/models/org%2Fsmall"), 400)
    assert "base model" in error["message"]


@pytest.mark.parametrize("name", ["honed/starter", "honed%2Fstarter"])
def test_a_name_with_a_slash_is_found(client: TestClient, name: str) -> None:
    assert client.get(f"/v1/models/{name}").json()["id"] == STARTER


@pytest.mark.parametrize("name", ["gpt-4o", "ft:org%2Fmodel:acme::abc:ckpt-step-10", "a/b/c"])
def test_an_unknown_name(client: TestClient, name: str) -> None:
    error = error_of(client.get(f"/v1/models/{name}"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
