"""What only a bucket has: a way there that breaks, uploads in pieces, copies on this machine."""

import contextlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gate import Gate
from kept import Kept
from servers import ObjectServer

from jobs.artifacts import ArtifactStore, bucket, cache, make_bucket, open_store
from jobs.artifacts.cache import Cache
from jobs.artifacts.manifest import seal
from jobs.errors import Gone, StoreAway
from jobs.settings import Settings

FOLDER = "jobs/a/attempt-1/step-1"


@pytest.fixture
def settings(tmp_path: Path, gated_bucket: dict[str, Any]) -> Settings:
    return Settings(data_dir=tmp_path / "data", **gated_bucket)


@pytest.fixture
def store(settings: Settings) -> Iterator[ArtifactStore]:
    with contextlib.closing(open_store(settings)) as store:
        yield store


def publish(store: ArtifactStore, relative: str = FOLDER, content: bytes = b"weights") -> None:
    def write(folder: Path) -> None:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_config.json").write_bytes(b"{}")
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(content)

    store.publish(relative, write)


def test_a_store_that_is_away_is_an_error_of_its_own_until_it_is_back(
    store: ArtifactStore, gate: Gate
) -> None:
    assert store.fault() is None
    gate.cut()
    for ask in (
        lambda: store.put_upload("file-a", io.BytesIO(b"x"), max_bytes=1),
        lambda: store.content("files/file-a", what="it"),
        lambda: publish(store),
        lambda: list(store.holdings()),
    ):
        with pytest.raises(StoreAway, match="no connection"):
            ask()
    assert "no connection" in (store.fault() or "")
    gate.open()
    assert store.put_upload("file-a", io.BytesIO(b"x"), max_bytes=1).num_bytes == 1
    assert store.fault() is None


def test_what_the_operator_has_to_mend_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = settings.model_copy(update={"artifacts_url": "s3://of-nobody/a"})
    with contextlib.closing(open_store(wrong)) as store:
        assert "'of-nobody'" in (store.fault() or "")
        assert "no such bucket" in (store.fault() or "")
        with pytest.raises(StoreAway, match="NoSuchBucket"):
            store.put_upload("file-a", io.BytesIO(b"x"), max_bytes=1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with contextlib.closing(open_store(settings)) as store:
        assert "no credentials for it" in (store.fault() or "")


def test_the_bucket_is_made_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HONED_ARTIFACTS_URL", "s3://honed-made-once/a")
    monkeypatch.setenv("HONED_ARTIFACTS_ENDPOINT", settings.artifacts_endpoint)
    monkeypatch.setenv("HONED_ARTIFACTS_REGION", settings.artifacts_region)
    assert (make_bucket.main(), make_bucket.main()) == (0, 0)
    with contextlib.closing(open_store(Settings())) as store:
        assert store.fault() is None
    monkeypatch.delenv("HONED_ARTIFACTS_URL")
    assert make_bucket.main() == 1
    assert "names no bucket" in capsys.readouterr().err


def test_a_read_that_breaks_off_is_gone_on_with(store: ArtifactStore, gate: Gate) -> None:
    sent = os.urandom(24 * 2**20)
    store.put_upload("file-a", io.BytesIO(sent), max_bytes=len(sent))
    chunks = store.content("files/file-a", what="it").read(0, len(sent))
    read = next(chunks)
    gate.cut()
    gate.open()
    assert read + b"".join(chunks) == sent


def test_uploads_in_pieces_that_nobody_ended_are_forgotten_in_the_end(
    settings: Settings, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = settings.artifacts_url.split("/")[2]
    with contextlib.closing(object_server.client()) as client:

        def begin(key: str) -> None:
            client.create_multipart_upload(Bucket=name, Key=key)

        def unfinished() -> list[Any]:
            uploads: list[Any] = client.list_multipart_uploads(Bucket=name).get("Uploads", [])
            return sorted(one["Key"] for one in uploads)

        begin("team/a/files/file-a")
        begin("team/b/files/file-b")
        monkeypatch.setattr(bucket, "LOOK_SECONDS", 0.0)
        with contextlib.closing(open_store(settings)) as store:
            assert store.clear_abandoned() == 0, "it may still go on"
            begin("team/a/files/file-c")
            assert store.clear_abandoned() == 1
        # What began since may go on, and another prefix is another's.
        assert unfinished() == ["team/a/files/file-c", "team/b/files/file-b"]


def test_bytes_that_are_not_those_that_were_stored_are_not_used(
    store: ArtifactStore, kept: Kept
) -> None:
    stored = store.put_upload("file-a", io.BytesIO(b"rows"), max_bytes=9)
    kept.write("files/file-a", b"rowz")
    with (
        pytest.raises(Gone, match="file-a is damaged"),
        store.reading("file-a", sha256=stored.sha256),
    ):
        pass
    publish(store)
    kept.write(f"{FOLDER}/adapter/adapter_model.safetensors", b"weightz")
    with pytest.raises(Gone, match="damaged"):
        store.adapter(FOLDER)
    with pytest.raises(Gone, match="no longer in the artifact store"):
        store.adapter("jobs/a/attempt-1/step-2")


def test_an_adapter_is_fetched_once_and_its_copy_is_checked(
    store: ArtifactStore, settings: Settings, gate: Gate
) -> None:
    publish(store)
    folder = store.adapter(FOLDER)
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    gate.cut()
    assert store.adapter(FOLDER) == folder, "without asking again"
    gate.open()
    (folder / "adapter_model.safetensors").write_bytes(b"rotten")
    with contextlib.closing(open_store(settings)) as another:
        weights = another.adapter(FOLDER) / "adapter_model.safetensors"
        assert weights.read_bytes() == b"weights"
        another.remove(FOLDER)
    assert not folder.exists()


def test_the_cache_keeps_so_many_bytes_and_what_was_asked_for_last(tmp_path: Path) -> None:
    kept = Cache(tmp_path / "cache", max_bytes=2500)

    def put(name: str) -> Path:
        folder = tmp_path / "new"
        folder.mkdir()
        (folder / "weights").write_bytes(b"x" * 1000)
        seal(folder)
        return kept.put(name, folder)

    def age(folder: Path, seconds: float) -> None:
        then = time.time() - seconds
        os.utime(folder, (then, then))

    old, older = put("a/1"), put("a/2")
    age(old, cache.IN_USE_SECONDS + 50)
    age(older, cache.IN_USE_SECONDS + 100)
    put("a/3")
    assert kept.get("a/2") is None
    assert kept.get("a/1") == old
    put("a/4")
    assert kept.get("a/1") == old, "somebody may be about to read it"
    kept.drop("a")
    assert kept.get("a/1") is None
