"""Artifacts in one local folder, which every process that needs them sees. Publishing is atomic.

A published folder is written beside its place, synced, sealed with a manifest of every file's
sha256, and renamed. What was interrupted stays under `tmp/` and is never read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from jobs import scratch
from jobs.artifacts.base import (
    ADAPTER,
    CHUNK_BYTES,
    Content,
    Damaged,
    Measured,
    Stored,
    chunks,
)
from jobs.artifacts.manifest import MANIFEST, fault, is_whole, seal, size_of, sync
from jobs.errors import Gone


class LocalStore:
    """A folder shared by every process that reads or writes artifacts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def upload_path(self, file_id: str) -> Path:
        return self.root / "files" / file_id

    def put_upload(self, file_id: str, source: BinaryIO, *, max_bytes: int) -> Stored:
        """Meet `ArtifactStore.put_upload`."""
        return self._put(self.upload_path(file_id), Measured(chunks(source), max_bytes=max_bytes))

    def put_part(self, upload_id: str, part_id: str, source: BinaryIO, *, max_bytes: int) -> Stored:
        """Meet `ArtifactStore.put_part`."""
        measured = Measured(chunks(source), max_bytes=max_bytes, param="data")
        return self._put(self._part(upload_id, part_id), measured)

    def delete_part(self, upload_id: str, part_id: str) -> None:
        self._part(upload_id, part_id).unlink(missing_ok=True)

    def delete_parts(self, upload_id: str) -> None:
        self.remove(f"uploads/{upload_id}")

    def join_parts(self, upload_id: str, part_ids: list[str], file_id: str) -> tuple[Stored, str]:
        """Meet `ArtifactStore.join_parts`."""
        paths = [
            self.existing(self._part(upload_id, part_id), what=f"part {part_id}")
            for part_id in part_ids
        ]
        digest = hashlib.md5(usedforsecurity=False)

        def joined() -> Iterator[bytes]:
            for path in paths:
                with path.open("rb") as part:
                    for chunk in chunks(part):
                        digest.update(chunk)
                        yield chunk

        try:
            stored = self._put(self.upload_path(file_id), Measured(joined()))
        except FileNotFoundError:  # since they were looked up
            raise Gone(
                f"The parts of upload {upload_id} are gone: it was completed or given up meanwhile."
            ) from None
        return stored, digest.hexdigest()

    def _part(self, upload_id: str, part_id: str) -> Path:
        return self.root / "uploads" / upload_id / part_id

    def _put(self, target: Path, measured: Measured) -> Stored:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._scratch() as aside:
            partial = aside / "upload"
            with partial.open("wb") as file:
                for chunk in measured:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
            sync(target.parent)
        return measured.stored

    def delete_upload(self, file_id: str) -> None:
        self.upload_path(file_id).unlink(missing_ok=True)

    def existing(self, path: Path, *, what: str) -> Path:
        """The path, or Gone with a sentence when its bytes have vanished."""
        if not path.exists():
            raise vanished(what)
        return path

    @contextmanager
    def reading(self, file_id: str, *, sha256: str) -> Iterator[Path]:
        """Meet `ArtifactStore.reading`."""
        yield self.existing(self.upload_path(file_id), what=f"file {file_id}")

    def content(self, relative: str, *, what: str) -> Content:
        """Meet `ArtifactStore.content`."""
        path = self.existing(self.root / relative, what=what)

        def read(first: int, num_bytes: int) -> Iterator[bytes]:
            with path.open("rb") as file:
                file.seek(first)
                while chunk := file.read(min(CHUNK_BYTES, num_bytes)):
                    num_bytes -= len(chunk)
                    yield chunk

        return Content(path.stat().st_size, read, path)

    def folder(self, relative: str) -> Path:
        return self.root / relative

    @contextmanager
    def checkpoint(self, relative: str) -> Iterator[Path]:
        """Meet `ArtifactStore.checkpoint`."""
        found = fault(self.folder(relative))
        if found is not None:
            raise Damaged(found)
        yield self.folder(relative)

    def adapter(self, relative: str) -> Path:
        """Meet `ArtifactStore.adapter`."""
        return self.folder(relative) / ADAPTER

    def publish(self, relative: str, write: Callable[[Path], None]) -> Path:
        """Meet `ArtifactStore.publish`; the folder at its place."""
        target = self.folder(relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._scratch() as aside:
            folder = aside / "folder"
            folder.mkdir()
            write(folder)
            seal(folder)
            if _is_same(target, folder):
                return target
            if target.exists():
                target.rename(aside / "replaced")
            folder.rename(target)
            sync(target.parent)
        return target

    def size(self, relative: str) -> int:
        """Meet `ArtifactStore.size`."""
        return size_of(self.folder(relative))

    def remove(self, relative: str) -> None:
        shutil.rmtree(self.folder(relative), ignore_errors=True)

    def keep_only(self, parent: str, kept: set[str]) -> None:
        """Meet `ArtifactStore.keep_only`."""
        for folder in self.folder(parent).glob("*/*"):
            if str(folder.relative_to(self.root)) not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def holdings(self) -> Iterator[str]:
        """Meet `ArtifactStore.holdings`."""
        for pattern in ("files/*", "uploads/*", "jobs/*/*/*"):
            for path in self.root.glob(pattern):
                yield str(path.relative_to(self.root))

    def clear_scratch(self) -> None:
        """Meet `ArtifactStore.clear_scratch`."""
        shutil.rmtree(self.root / "tmp", ignore_errors=True)

    def clear_abandoned(self) -> int:
        """Meet `ArtifactStore.clear_abandoned`."""
        return scratch.clear_abandoned(self.root / "tmp")

    def fault(self) -> str | None:
        """Meet `ArtifactStore.fault`: a folder of this machine answers."""
        return None

    def close(self) -> None:
        """Meet `ArtifactStore.close`: nothing is held."""

    def _scratch(self) -> AbstractContextManager[Path]:
        return scratch.scratch(self.root / "tmp")


def vanished(what: str) -> Gone:
    """What is said of bytes that a row names and that are not there."""
    return Gone(
        f"The bytes of {what} are no longer in the artifact store; "
        "they were removed outside this service and cannot be served."
    )


def _is_same(published: Path, sealed: Path) -> bool:
    return (
        is_whole(published)
        and (published / MANIFEST).read_bytes() == (sealed / MANIFEST).read_bytes()
    )
