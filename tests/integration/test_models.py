"""Base models from a hub: pinned, fetched, refused with what to do, and found again offline."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import pytest
from huggingface_hub import constants

from jobs.errors import JobFailure
from jobs.local_models import is_whole
from jobs.registry import STARTER_FOLDER
from jobs.settings import Settings
from jobs.status import Reason
from worker import download as downloads
from worker import hub, models
from worker.download import download
from worker.grpo.errors import Interrupted

NAME = "org/tiny"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    """A hub with the starter as `org/tiny`; this process and its children know no other."""
    folder = tmp_path / "repository"
    shutil.copytree(STARTER_FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (folder / "consolidated.safetensors").write_bytes(b"the same weights once more")
    with hub_server.running() as server:
        server.repos[NAME] = hub_server.Repo(folder)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        yield server


@pytest.fixture
def online(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def offline(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", offline=True)


def fetched(pinned: hub.Pinned, settings: Settings, **options: Any) -> Path:
    return download(
        pinned,
        settings,
        **{"progress": lambda done, total: None, "interrupt": lambda: None, **options},
    )


def parts(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "hf").rglob("*.incomplete"))


def honed_models(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", "models", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )


def test_a_name_is_pinned_to_a_commit_and_its_files(
    server: hub_server.Hub, online: Settings
) -> None:
    commit = server.repos[NAME].commit()
    pinned = hub.pin(NAME, online)
    assert pinned["revision"] == commit
    assert pinned == hub.pin(f"{NAME}@main", online) == hub.pin(f"{NAME}@{commit}", online)
    sizes = {path: file["size"] for path, file in pinned["files"].items()}
    starter = {path.name: path.stat().st_size for path in STARTER_FOLDER.iterdir()}
    assert sizes == {name: starter[name] for name in sizes}
    assert {"model.safetensors", "config.json", "chat_template.jinja"} <= set(sizes)
    assert not {"consolidated.safetensors", "README.md"} & set(sizes)


def test_bytes_arrive_as_progress_and_are_kept(
    server: hub_server.Hub, online: Settings, offline: Settings
) -> None:
    weights = server.repos[NAME].folder / "model.safetensors"
    os.truncate(weights, 60 * 2**20)  # enough for several writes of the client's 10 MiB
    pinned = hub.pin(NAME, online)
    assert (hub.cached(pinned), hub.num_bytes(pinned)[0]) == (None, 0)
    server.seconds_a_chunk = 0.03
    said: list[tuple[int, int]] = []
    folder = fetched(pinned, online, progress=lambda *numbers: said.append(numbers))

    assert (folder / "model.safetensors").read_bytes() == weights.read_bytes()
    total = sum(file["size"] for file in pinned["files"].values())
    assert {number for _, number in said} == {total}
    done = [number for number, _ in said]
    assert done == sorted(set(done))
    assert len([number for number in done if 0 < number < total]) >= 3

    num_requests = len(server.requests)
    for settings in (online, offline):
        assert fetched(pinned, settings, interrupt=lambda: pytest.fail("nothing to do")) == folder
    assert len(server.requests) == num_requests


def test_a_tokenizer_alone_is_not_the_model(
    server: hub_server.Hub, online: Settings, offline: Settings
) -> None:
    pinned = hub.pin(NAME, online)
    folder = hub.tokenizer_folder(pinned, online)
    assert (folder / "tokenizer.json").exists()
    assert not (folder / "model.safetensors").exists()
    assert hub.tokenizer_folder(pinned, offline) == folder
    for attempt in (lambda: fetched(pinned, offline), lambda: hub.pin(NAME, offline)):
        with pytest.raises(JobFailure, match="not whole in this machine's cache"):
            attempt()
    assert is_whole(fetched(pinned, online))


def test_offline_the_newest_whole_revision_is_found(
    server: hub_server.Hub, online: Settings, offline: Settings
) -> None:
    first = hub.pin(NAME, online)
    fetched(first, online)
    (server.repos[NAME].folder / "registry.json").write_text("{}")
    second = hub.pin(NAME, online)
    assert second["revision"] != first["revision"]
    assert hub.pin(NAME, offline)["revision"] == first["revision"]
    fetched(second, online)
    assert hub.pin(NAME, offline)["revision"] == second["revision"]
    assert hub.pin(f"{NAME}@{first['revision']}", offline)["revision"] == first["revision"]
    with pytest.raises(JobFailure, match="at revision v9 is not whole in this machine's cache"):
        hub.pin(f"{NAME}@v9", offline)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("org/none", "'org/none' is not on the hub.*HF_TOKEN"),
        ("org/tiny@v9", "'org/tiny' at revision 'v9' is not on the hub"),
        ("org/pickled", "no safetensors weights; pickled weights are not loaded"),
        ("org/adapter", "no config.json, so it is no base model"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(
    server: hub_server.Hub, online: Settings, tmp_path: Path, name: str, sentence: str
) -> None:
    for other, files in (
        ("org/pickled", ("config.json", "pytorch_model.bin")),
        ("org/adapter", ("adapter_config.json", "adapter_model.safetensors")),
    ):
        folder = tmp_path / other
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_text("{}")
        server.repos[other] = hub_server.Repo(folder)
    with pytest.raises(JobFailure, match=sentence) as caught:
        hub.pin(name, online)
    assert (caught.value.reason, caught.value.param) == (Reason.MODEL_NOT_AVAILABLE, "model")


def test_a_gated_model_says_what_to_set(server: hub_server.Hub, online: Settings) -> None:
    """Its listing is public; the first file is refused."""
    server.repos[NAME].gated = True
    pinned = hub.pin(NAME, online)
    for attempt in (hub.tokenizer_folder, fetched):
        with pytest.raises(JobFailure, match=r"gated: accept its terms.*set HF_TOKEN"):
            attempt(pinned, online)


def test_a_hub_out_of_reach_says_what_to_set(
    online: Settings, server: hub_server.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(JobFailure, match=r"could not be asked.*refused.*HONED_OFFLINE=1"):
        hub.pin(NAME, online)


def test_a_cancel_ends_a_download_at_once_and_leaves_nothing(
    server: hub_server.Hub, online: Settings, tmp_path: Path
) -> None:
    server.seconds_a_chunk = 30.0
    pinned = hub.pin(NAME, online)
    asked_at = 0.0

    def interrupt() -> None:
        nonlocal asked_at
        if parts(tmp_path):
            asked_at = time.monotonic()
            raise Interrupted("asked to cancel")

    with pytest.raises(Interrupted):
        fetched(pinned, online, interrupt=interrupt)
    assert time.monotonic() - asked_at < server.seconds_a_chunk, "the next piece was waited for"
    assert parts(tmp_path) == []
    assert hub.cached(pinned) is None


def test_a_download_that_breaks_off_is_tried_again(
    server: hub_server.Hub, online: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "RETRY_SECONDS", 0.1)
    pinned = hub.pin(NAME, online)
    server.failing = 1
    assert is_whole(fetched(pinned, online))


def test_a_hub_that_stays_away_ends_the_attempt_not_the_job(
    server: hub_server.Hub, online: Settings
) -> None:
    pinned = hub.pin(NAME, online)
    server.refusing = 403  # as a proxy does; the client asks again for some minutes after a 5xx
    with pytest.raises(ConnectionError, match=r"could not be asked.*403"):
        fetched(pinned, online, patience_seconds=0)


def test_a_disk_too_small_is_said_before_a_byte_is_fetched(
    server: hub_server.Hub, online: Settings
) -> None:
    pinned = hub.pin(NAME, online)
    pinned["files"]["model.safetensors"]["size"] = 10**18
    with pytest.raises(JobFailure, match=r"needs 1000000000\.0 GB more.*sets HF_HOME"):
        fetched(pinned, online)
    assert not any("resolve" in request for request in server.requests)


def test_models_are_pulled_and_listed_by_the_command(server: hub_server.Hub) -> None:
    commit = server.repos[NAME].commit()
    pulled = honed_models("pull", NAME)
    assert pulled.returncode == 0
    assert pulled.stdout.startswith(f"{NAME} at revision {commit} is in /")
    head, *rows = honed_models("list").stdout.splitlines()
    assert head.split() == ["name", "revision", "size", "where"]
    assert [row.split()[:2] for row in rows] == [["honed/starter", "-"], [NAME, commit]]
    assert rows[1].endswith("MB  cache")


@pytest.mark.parametrize(
    ("name", "code", "out", "sentence"),
    [
        ("honed/starter", 0, f"honed/starter is in {STARTER_FOLDER}\n", ""),
        ("org/none", 1, "", "The model 'org/none' is not on the hub."),
        ("nonsense", 1, "", "The model 'nonsense' does not exist here."),
    ],
)
def test_pulling_answers_in_a_sentence(
    server: hub_server.Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
    out: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["models", "pull", name])
    assert models.main() == code
    said = capsys.readouterr()
    assert (said.out, said.err[: len(sentence)]) == (out, sentence)
