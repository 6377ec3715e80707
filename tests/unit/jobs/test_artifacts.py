"""Where bytes live: whole or not there."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from jobs.artifacts import (
    ADAPTER_ARCHIVE,
    MANIFEST,
    LocalStore,
    fault,
    is_whole,
    pack,
    sha256_of,
)
from jobs.errors import BodyTooLarge, Gone


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "artifacts")


def files(store: LocalStore) -> list[str]:
    return sorted(
        str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()
    )


class TestUploads:
    def test_bytes_size_and_sha256(self, store: LocalStore) -> None:
        content = os.urandom(3 * 2**20 + 7)
        stored = store.put_upload("file-a", io.BytesIO(content), max_bytes=len(content))
        assert stored.num_bytes == len(content)
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        assert store.upload_path("file-a").read_bytes() == content
        store.delete_upload("file-a")
        store.delete_upload("file-a")
        assert files(store) == []

    def test_too_large_leaves_nothing(self, store: LocalStore) -> None:
        with pytest.raises(BodyTooLarge, match="larger than 10 bytes"):
            store.put_upload("file-a", io.BytesIO(b"x" * 11), max_bytes=10)
        assert files(store) == []

    def test_a_source_that_breaks_leaves_nothing(self, store: LocalStore) -> None:
        class Broken(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell():
                    raise OSError("disk")
                return super().read(5)

        with pytest.raises(OSError, match="disk"):
            store.put_upload("file-a", Broken(b"x" * 11), max_bytes=100)
        assert files(store) == []


def write_adapter(content: bytes = b"weights") -> object:
    def write(folder: Path) -> None:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(content)
        (folder / "state").mkdir()
        (folder / "state" / "rng").write_bytes(b"7")

    return write


class TestPublish:
    def test_a_published_folder_is_whole(self, store: LocalStore) -> None:
        folder = store.publish("jobs/a/step-1", write_adapter())
        assert folder == store.root / "jobs/a/step-1"
        assert is_whole(folder)
        assert files(store) == [
            "jobs/a/step-1/adapter/adapter_model.safetensors",
            "jobs/a/step-1/manifest.json",
            "jobs/a/step-1/state/rng",
        ]

    def test_what_fails_is_not_published(self, store: LocalStore) -> None:
        def write(folder: Path) -> None:
            (folder / "half").write_bytes(b"x")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            store.publish("jobs/a/step-1", write)
        assert files(store) == []

    def test_a_second_time_replaces(self, store: LocalStore) -> None:
        store.publish("jobs/a/step-1", write_adapter(b"old"))
        folder = store.publish("jobs/a/step-1", write_adapter(b"new"))
        assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == b"new"
        assert is_whole(folder)

    def test_the_same_again_is_left_in_its_place(self, store: LocalStore) -> None:
        folder = store.publish("jobs/a/step-1", write_adapter())
        inode = folder.stat().st_ino
        assert store.publish("jobs/a/step-1", write_adapter()).stat().st_ino == inode
        (folder / "state" / "rng").unlink()
        assert store.publish("jobs/a/step-1", write_adapter()).stat().st_ino != inode
        assert is_whole(folder)

    def test_a_killed_writer_leaves_nothing_in_place(self, store: LocalStore) -> None:
        code = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from jobs.artifacts import LocalStore\n"
            "def write(folder):\n"
            "    (folder / 'half').write_bytes(b'x')\n"
            "    os.kill(os.getpid(), 9)\n"
            "LocalStore(Path(sys.argv[1])).publish('jobs/a/step-1', write)\n"
        )
        killed = subprocess.run([sys.executable, "-c", code, str(store.root)], check=False)
        assert killed.returncode == -9
        assert not store.folder("jobs/a/step-1").exists()
        assert len(files(store)) == 1  # in the scratch folder, until somebody clears it
        store.clear_scratch()
        assert files(store) == []

    def test_what_a_killed_writer_left_goes_at_the_next_round(self, store: LocalStore) -> None:
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from jobs.artifacts import LocalStore\n"
            "def write(folder):\n"
            "    (folder / 'half').write_bytes(b'x')\n"
            "    print('writing', flush=True)\n"
            "    sys.stdin.read()\n"
            "LocalStore(Path(sys.argv[1])).publish('jobs/a/step-1', write)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(store.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            assert store.clear_abandoned() == 0
            assert len(files(store)) == 1, "its writer lives"
            writer.kill()
        assert store.clear_abandoned() == 1
        assert files(store) == []

    def test_what_another_machine_left_is_abandoned_once_it_is_old(self, store: LocalStore) -> None:
        old, young, both = (store.root / "tmp" / name / "folder" for name in ("a", "b", "c"))
        for folder in (old, young, both):
            folder.mkdir(parents=True)
            (folder / "half").write_bytes(b"x")
        for path in (old, old.parent, old / "half", both.parent, both):
            os.utime(path, (0, 0))

        assert store.clear_abandoned() == 1

        assert {path.name for path in (store.root / "tmp").iterdir()} == {"b", "c"}

    @pytest.mark.parametrize("harm", ["cut", "remove", "no manifest", "bad manifest", "list"])
    def test_harm_is_noticed(self, store: LocalStore, harm: str) -> None:
        folder = store.publish("jobs/a/step-1", write_adapter())
        weights, manifest = folder / "adapter" / "adapter_model.safetensors", folder / MANIFEST
        match harm:
            case "cut":
                weights.write_bytes(b"weight")
            case "remove":
                weights.unlink()
            case "no manifest":
                manifest.unlink()
            case "bad manifest":
                manifest.write_text("{")
            case "list":
                manifest.write_text("[]")
        assert not is_whole(folder)

    @pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "state/rng", MANIFEST])
    @pytest.mark.parametrize("harm", ["truncated", "flipped", "deleted", "added"])
    def test_what_is_wrong_is_said_with_the_files_name(
        self, store: LocalStore, harm: str, name: str
    ) -> None:
        folder = store.publish("jobs/a/step-1", write_adapter())
        assert fault(folder) is None
        harmed = folder / name
        content = harmed.read_bytes()
        match harm:
            case "truncated":
                harmed.write_bytes(content[:-1])
            case "flipped":
                harmed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            case "deleted":
                harmed.unlink()
            case "added":
                harmed.with_name("other").write_bytes(b"o")
        said = fault(folder)
        assert said is not None
        assert ("other" if harm == "added" else name) in said

    def test_what_no_row_names_is_removed(self, store: LocalStore) -> None:
        for attempt, step in ((1, 1), (1, 2), (2, 2)):
            store.publish(f"jobs/a/attempt-{attempt}/step-{step}", write_adapter())
        store.publish("jobs/b/attempt-1/step-1", write_adapter())
        store.keep_only("jobs/a", {"jobs/a/attempt-1/step-1", "jobs/a/attempt-2/step-2"})
        left = sorted(path.parent.relative_to(store.root) for path in store.root.rglob(MANIFEST))
        assert [str(folder) for folder in left] == [
            "jobs/a/attempt-1/step-1",
            "jobs/a/attempt-2/step-2",
            "jobs/b/attempt-1/step-1",
        ]


def test_vanished_bytes_are_a_sentence(store: LocalStore) -> None:
    with pytest.raises(Gone, match="The bytes of file file-a are no longer in the artifact store"):
        store.existing(store.upload_path("file-a"), what="file file-a")


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
