"""Where bytes live: uploads and adapters in one local folder. Publishing is atomic.

A published folder is whole: it is written beside its place, synced, sealed with a manifest of
every file's sha256, and renamed. What was interrupted stays under `tmp/` and is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jobs import scratch
from jobs.errors import BodyTooLarge, Gone

MANIFEST = "manifest.json"
# The adapter as it is downloaded, in a checkpoint's folder.
ADAPTER_ARCHIVE = "adapter.tar"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Stored:
    num_bytes: int
    sha256: str


class ArtifactStore:
    """A folder shared by every process that reads or writes artifacts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def upload_path(self, file_id: str) -> Path:
        return self.root / "files" / file_id

    def put_upload(self, file_id: str, source: BinaryIO, *, max_bytes: int) -> Stored:
        """Stream an upload to its place. Raises BodyTooLarge and then keeps nothing."""
        return self._put(self.upload_path(file_id), _chunks(source), max_bytes=max_bytes)

    def put_part(self, upload_id: str, part_id: str, source: BinaryIO, *, max_bytes: int) -> Stored:
        """Stream a part of an upload to its place. Raises BodyTooLarge and then keeps nothing."""
        target = self._part(upload_id, part_id)
        return self._put(target, _chunks(source), max_bytes=max_bytes, param="data")

    def delete_part(self, upload_id: str, part_id: str) -> None:
        self._part(upload_id, part_id).unlink(missing_ok=True)

    def delete_parts(self, upload_id: str) -> None:
        self.remove(f"uploads/{upload_id}")

    def join_parts(self, upload_id: str, part_ids: list[str], file_id: str) -> tuple[Stored, str]:
        """Write a file of the parts in their order; also the hex MD5 of it.

        Raises Gone when a part's bytes have vanished. The parts stay.
        """
        paths = [
            self.existing(self._part(upload_id, part_id), what=f"part {part_id}")
            for part_id in part_ids
        ]
        digest = hashlib.md5(usedforsecurity=False)

        def chunks() -> Iterator[bytes]:
            for path in paths:
                with path.open("rb") as part:
                    for chunk in _chunks(part):
                        digest.update(chunk)
                        yield chunk

        try:
            stored = self._put(self.upload_path(file_id), chunks())
        except FileNotFoundError:  # since they were looked up
            raise Gone(
                f"The parts of upload {upload_id} are gone: it was completed or given up meanwhile."
            ) from None
        return stored, digest.hexdigest()

    def _part(self, upload_id: str, part_id: str) -> Path:
        return self.root / "uploads" / upload_id / part_id

    def _put(
        self,
        target: Path,
        chunks: Iterator[bytes],
        *,
        max_bytes: int | None = None,
        param: str = "file",
    ) -> Stored:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, num_bytes = hashlib.sha256(), 0
        with self._scratch() as aside:
            partial = aside / "upload"
            with partial.open("wb") as file:
                for chunk in chunks:
                    num_bytes += len(chunk)
                    if max_bytes is not None and num_bytes > max_bytes:
                        raise BodyTooLarge(
                            f"'{param}' is larger than {max_bytes:,} bytes, the limit here.",
                            param=param,
                        )
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
            _sync(target.parent)
        return Stored(num_bytes=num_bytes, sha256=digest.hexdigest())

    def delete_upload(self, file_id: str) -> None:
        self.upload_path(file_id).unlink(missing_ok=True)

    def existing(self, path: Path, *, what: str) -> Path:
        """The path, or Gone with a sentence when its bytes have vanished."""
        if not path.exists():
            raise Gone(
                f"The bytes of {what} are no longer in the artifact store; "
                "they were removed outside this service and cannot be served."
            )
        return path

    def folder(self, relative: str) -> Path:
        return self.root / relative

    def publish(self, relative: str, write: Callable[[Path], None]) -> Path:
        """Run `write` on an empty folder and publish what it wrote at `relative`.

        An earlier folder there (the same attempt saved the same step before) is kept when it is
        whole and the same, else replaced.
        """
        target = self.folder(relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._scratch() as aside:
            folder = aside / "folder"
            folder.mkdir()
            write(folder)
            _seal(folder)
            if _is_same(target, folder):
                return target
            if target.exists():
                target.rename(aside / "replaced")
            folder.rename(target)
            _sync(target.parent)
        return target

    def remove(self, relative: str) -> None:
        shutil.rmtree(self.folder(relative), ignore_errors=True)

    def keep_only(self, parent: str, kept: set[str]) -> None:
        """Remove the published folders two levels below `parent` that are not in `kept`."""
        for folder in self.folder(parent).glob("*/*"):
            if str(folder.relative_to(self.root)) not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def clear_scratch(self) -> None:
        """Remove what interrupted writes left behind. Only while nobody else writes here."""
        shutil.rmtree(self.root / "tmp", ignore_errors=True)

    def clear_abandoned(self) -> int:
        """Remove what writers left behind that were killed; how many there were."""
        return scratch.clear_abandoned(self.root / "tmp")

    def _scratch(self) -> AbstractContextManager[Path]:
        return scratch.scratch(self.root / "tmp")


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def _seal(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(folder)): sha256_of(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, folder / MANIFEST]:
        _sync(path)
    _sync(folder)


def _is_same(published: Path, sealed: Path) -> bool:
    return (
        is_whole(published)
        and (published / MANIFEST).read_bytes() == (sealed / MANIFEST).read_bytes()
    )


def is_whole(folder: Path) -> bool:
    """Whether every file of a published folder is there and has the bytes it was sealed with."""
    return fault(folder) is None


def fault(folder: Path) -> str | None:
    """What of a published folder is not as it was sealed, every byte looked at; None if nothing."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        names = sorted(manifest.items())
    except FileNotFoundError:
        return f"its {MANIFEST} is gone"
    except (OSError, ValueError, AttributeError) as error:
        return f"its {MANIFEST} cannot be read: {error}"
    unnamed = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    unnamed -= {MANIFEST, *manifest}
    if unnamed:
        return f"its {MANIFEST} does not name {min(unnamed)}"
    for name, digest in names:
        try:
            if sha256_of(folder / name) != digest:
                return f"{name} is damaged: its bytes are not those that were saved"
        except FileNotFoundError:
            return f"{name} is gone"
        except OSError as error:
            return f"{name} cannot be read: {error}"
    return None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(folder: Path, archive: Path) -> None:
    """A tar of the folder's files that is the same bytes whenever the files are the same."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = tarfile.TarInfo(str(path.relative_to(folder)))
            info.size = path.stat().st_size
            info.mode = 0o644
            with path.open("rb") as file:
                tar.addfile(info, file)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
