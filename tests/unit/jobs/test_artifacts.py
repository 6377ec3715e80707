"""Where bytes live: whole or not there, in a folder and in a bucket alike."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept import Kept

from jobs.artifacts import (
    ADAPTER_ARCHIVE,
    MANIFEST,
    ArtifactStore,
    Damaged,
    LocalStore,
    open_store,
    pack,
    sha256_of,
)
from jobs.errors import BodyTooLarge, Gone
from service.settings import ServiceSettings

pytestmark = pytest.mark.on_both_stores

WEIGHTS = "adapter/adapter_model.safetensors"
STORE = ("artifacts_url", "artifacts_endpoint", "artifacts_region")


@pytest.fixture
def store(settings: ServiceSettings) -> Iterator[ArtifactStore]:
    store = open_store(settings)
    yield store
    store.close()


def read(store: ArtifactStore, relative: str) -> bytes:
    content = store.content(relative, what=relative)
    return b"".join(content.read(0, content.num_bytes))


class TestUploads:
    def test_bytes_size_and_sha256(self, store: ArtifactStore, kept: Kept) -> None:
        content = os.urandom(3 * 2**20 + 7)
        stored = store.put_upload("file-a", io.BytesIO(content), max_bytes=len(content))
        assert stored.num_bytes == len(content)
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        assert read(store, "files/file-a") == content
        served = store.content("files/file-a", what="it")
        assert b"".join(served.read(2**20 - 3, 2**20)) == content[2**20 - 3 : 2 * 2**20 - 3]
        with store.reading("file-a", sha256=stored.sha256) as path:
            assert path.read_bytes() == content
        store.delete_upload("file-a")
        store.delete_upload("file-a")
        assert kept.names() == []

    def test_what_is_large_is_stored_in_pieces_and_whole(
        self, store: ArtifactStore, kept: Kept
    ) -> None:
        content = os.urandom(20 * 2**20 + 11)
        stored = store.put_upload("file-a", io.BytesIO(content), max_bytes=len(content))
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        assert hashlib.sha256(kept.read("files/file-a")).hexdigest() == stored.sha256

    @pytest.mark.parametrize("limit", [10, 17 * 2**20])
    def test_too_large_leaves_nothing(self, store: ArtifactStore, kept: Kept, limit: int) -> None:
        with pytest.raises(BodyTooLarge, match=f"larger than {limit:,} bytes"):
            store.put_upload("file-a", io.BytesIO(b"x" * (limit + 1)), max_bytes=limit)
        assert kept.names() == []

    def test_a_source_that_breaks_leaves_nothing(self, store: ArtifactStore, kept: Kept) -> None:
        class Broken(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell():
                    raise OSError("disk")
                return super().read(5)

        with pytest.raises(OSError, match="disk"):
            store.put_upload("file-a", Broken(b"x" * 11), max_bytes=100)
        assert kept.names() == []

    def test_parts_are_joined_in_the_order_that_is_asked_for(
        self, store: ArtifactStore, kept: Kept
    ) -> None:
        for name, content in (("p1", b"one\n"), ("p2", b"two\n")):
            store.put_part("upload-a", name, io.BytesIO(content), max_bytes=10)
        stored, md5 = store.join_parts("upload-a", ["p2", "p1"], "file-a")
        joined = b"two\none\n"
        assert (stored.num_bytes, md5) == (8, hashlib.md5(joined).hexdigest())
        assert stored.sha256 == hashlib.sha256(joined).hexdigest()
        assert read(store, "files/file-a") == joined
        store.delete_parts("upload-a")
        with pytest.raises(Gone, match="part p1"):
            store.join_parts("upload-a", ["p1"], "file-b")
        assert kept.names() == ["files/file-a"]

    def test_vanished_bytes_are_a_sentence(self, store: ArtifactStore) -> None:
        sentence = "The bytes of file file-a are no longer in the artifact store"
        with pytest.raises(Gone, match=sentence):
            store.content("files/file-a", what="file file-a")
        with pytest.raises(Gone, match=sentence), store.reading("file-a", sha256=""):
            pass


def write_adapter(content: bytes = b"weights") -> object:
    def write(folder: Path) -> None:
        (folder / "adapter").mkdir()
        (folder / WEIGHTS).write_bytes(content)
        (folder / "state").mkdir()
        (folder / "state" / "rng").write_bytes(b"7")

    return write


def damage(store: ArtifactStore, relative: str) -> str | None:
    """What is said when the folder is asked for; None when it can be had."""
    try:
        with store.checkpoint(relative) as folder:
            assert (folder / MANIFEST).is_file()
    except Damaged as error:
        return str(error)
    return None


class TestPublish:
    def test_a_published_folder_is_whole(self, store: ArtifactStore, kept: Kept) -> None:
        store.publish("jobs/a/step-1", write_adapter())
        assert damage(store, "jobs/a/step-1") is None
        assert (store.adapter("jobs/a/step-1") / Path(WEIGHTS).name).read_bytes() == b"weights"
        assert kept.names() == [
            f"jobs/a/step-1/{WEIGHTS}",
            "jobs/a/step-1/manifest.json",
            "jobs/a/step-1/state/rng",
        ]

    def test_what_fails_is_not_published(self, store: ArtifactStore, kept: Kept) -> None:
        def write(folder: Path) -> None:
            (folder / "half").write_bytes(b"x")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            store.publish("jobs/a/step-1", write)
        assert kept.names() == []

    def test_a_second_time_replaces(self, store: ArtifactStore, kept: Kept) -> None:
        store.publish("jobs/a/step-1", write_adapter(b"old"))
        assert (store.adapter("jobs/a/step-1") / Path(WEIGHTS).name).read_bytes() == b"old"
        kept.write("jobs/a/step-1/state/left", b"by another attempt at it")
        store.publish("jobs/a/step-1", write_adapter(b"new"))
        assert (store.adapter("jobs/a/step-1") / Path(WEIGHTS).name).read_bytes() == b"new"
        assert damage(store, "jobs/a/step-1") is None

    @pytest.mark.parametrize("name", [WEIGHTS, "state/rng", MANIFEST])
    @pytest.mark.parametrize("harm", ["truncated", "flipped", "deleted", "added"])
    def test_what_is_wrong_is_said_with_the_files_name(
        self, store: ArtifactStore, kept: Kept, harm: str, name: str
    ) -> None:
        store.publish("jobs/a/step-1", write_adapter())
        harmed = f"jobs/a/step-1/{name}"
        content = kept.read(harmed)
        match harm:
            case "truncated":
                kept.write(harmed, content[:-1])
            case "flipped":
                kept.write(harmed, content[:-1] + bytes([content[-1] ^ 1]))
            case "deleted":
                kept.delete(harmed)
            case "added":
                kept.write(str(Path(harmed).with_name("other")), b"o")
        said = damage(store, "jobs/a/step-1")
        assert said is not None
        assert ("other" if harm == "added" else name) in said

    @pytest.mark.parametrize("manifest", [b"{", b"[]"])
    def test_a_manifest_that_is_none_is_damage(
        self, store: ArtifactStore, kept: Kept, manifest: bytes
    ) -> None:
        store.publish("jobs/a/step-1", write_adapter())
        kept.write(f"jobs/a/step-1/{MANIFEST}", manifest)
        assert "manifest.json cannot be read" in (damage(store, "jobs/a/step-1") or "")

    def test_what_no_row_names_is_removed(self, store: ArtifactStore, kept: Kept) -> None:
        for attempt, step in ((1, 1), (1, 12), (2, 2)):
            store.publish(f"jobs/a/attempt-{attempt}/step-{step}", write_adapter())
        store.publish("jobs/b/attempt-1/step-1", write_adapter())
        kept.write("jobs/a/attempt-1/step-9/state/rng", b"half: no manifest names it")
        store.keep_only("jobs/a", {"jobs/a/attempt-1/step-1", "jobs/a/attempt-2/step-2"})
        assert set(store.holdings()) == {
            "jobs/a/attempt-1/step-1",
            "jobs/a/attempt-2/step-2",
            "jobs/b/attempt-1/step-1",
        }

    def test_a_folder_is_removed_alone(self, store: ArtifactStore) -> None:
        for step in (1, 10):
            store.publish(f"jobs/a/attempt-1/step-{step}", write_adapter())
        store.remove("jobs/a/attempt-1/step-1/state")
        assert "state/rng is gone" in (damage(store, "jobs/a/attempt-1/step-1") or "")
        assert store.adapter("jobs/a/attempt-1/step-1").is_dir()
        store.remove("jobs/a/attempt-1/step-1")
        store.remove("jobs/a/attempt-1/step-1")
        assert list(store.holdings()) == ["jobs/a/attempt-1/step-10"]

    def test_a_killed_writer_leaves_nothing_in_place(
        self, store: ArtifactStore, kept: Kept, settings: ServiceSettings
    ) -> None:
        code = (
            "import os\n"
            "from jobs.artifacts import open_store\n"
            "from jobs.settings import Settings\n"
            "def write(folder):\n"
            "    (folder / 'half').write_bytes(b'x')\n"
            "    os.kill(os.getpid(), 9)\n"
            "open_store(Settings()).publish('jobs/a/attempt-1/step-1', write)\n"
        )
        values = settings.model_dump(include={"data_dir", *STORE})
        environ = {f"HONED_{name.upper()}": str(value) for name, value in values.items()}
        killed = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environ}, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert list(store.holdings()) == []
        assert len(halves(settings)) == 1, "where it wrote, until somebody clears it"
        store.clear_scratch()
        assert halves(settings) == []
        assert kept.names() == []


def halves(settings: ServiceSettings) -> list[Path]:
    return list(settings.data_dir.rglob("half"))


class TestInAFolder:
    """What only files can show."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "artifacts")

    def test_the_same_again_is_left_in_its_place(self, store: LocalStore) -> None:
        folder = store.publish("jobs/a/step-1", write_adapter())
        inode = folder.stat().st_ino
        assert store.publish("jobs/a/step-1", write_adapter()).stat().st_ino == inode
        (folder / "state" / "rng").unlink()
        assert store.publish("jobs/a/step-1", write_adapter()).stat().st_ino != inode
        assert damage(store, "jobs/a/step-1") is None

    def test_only_what_was_left_long_ago_is_abandoned(self, store: LocalStore) -> None:
        old, young, both = (store.root / "tmp" / name / "folder" for name in ("a", "b", "c"))
        for folder in (old, young, both):
            folder.mkdir(parents=True)
            (folder / "half").write_bytes(b"x")
        for path in (old, old.parent, old / "half", both.parent, both):
            os.utime(path, (0, 0))

        assert store.clear_abandoned() == 1

        assert {path.name for path in (store.root / "tmp").iterdir()} == {"b", "c"}


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        for path in ("sub/b", "a") if name == "one" else ("a", "sub/b"):
            (folder / path).write_bytes(path.encode())
            os.utime(folder / path, (len(digests), len(digests)))
        (folder / "a").chmod(0o600 if name == "one" else 0o755)
        archive = tmp_path / f"{name}-{ADAPTER_ARCHIVE}"
        pack(folder, archive)
        digests.add(sha256_of(archive))
        with tarfile.open(archive) as tar:
            assert tar.getnames() == ["a", "sub/b"]
            assert {member.uid for member in tar} == {0}
    assert len(digests) == 1
