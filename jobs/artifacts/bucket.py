"""Artifacts as objects in a bucket, for machines that share no folder.

An object is there whole or not at all; a published folder is there once its manifest is, which is
put last and removed first. What a killed writer has put before that is seen by nobody.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from jobs.artifacts import scratch
from jobs.artifacts.base import (
    ADAPTER,
    Content,
    Damaged,
    Measured,
    Stored,
    chunks,
)
from jobs.artifacts.cache import Cache
from jobs.artifacts.local import vanished
from jobs.artifacts.manifest import MANIFEST, fault, seal, sha256_of
from jobs.artifacts.objects import Listed, Objects
from jobs.errors import Gone
from jobs.settings import Settings

# An upload in pieces that two looks, so far apart, find unfinished is nobody's any more.
LOOK_SECONDS = 6 * 3600.0


class BucketStore:
    """Meets `ArtifactStore`. The settings' data folder has what is on its way, and the cache."""

    def __init__(self, settings: Settings) -> None:
        self.objects = Objects(settings)
        self._scratch = settings.artifacts_cache_dir / "tmp"
        self._cache = Cache(
            settings.artifacts_cache_dir / "adapters",
            max_bytes=int(settings.artifacts_cache_gb * 1e9),
        )
        self._look_at = 0.0
        self._unfinished: set[tuple[str, str]] = set()

    def put_upload(self, file_id: str, source: BinaryIO, *, max_bytes: int) -> Stored:
        """Meet `ArtifactStore.put_upload`."""
        return self._put(f"files/{file_id}", Measured(chunks(source), max_bytes=max_bytes))

    def put_part(self, upload_id: str, part_id: str, source: BinaryIO, *, max_bytes: int) -> Stored:
        """Meet `ArtifactStore.put_part`."""
        measured = Measured(chunks(source), max_bytes=max_bytes, param="data")
        return self._put(f"uploads/{upload_id}/{part_id}", measured)

    def join_parts(self, upload_id: str, part_ids: list[str], file_id: str) -> tuple[Stored, str]:
        """Meet `ArtifactStore.join_parts`."""
        parts = [
            self.content(f"uploads/{upload_id}/{part_id}", what=f"part {part_id}")
            for part_id in part_ids
        ]
        digest = hashlib.md5(usedforsecurity=False)

        def joined() -> Iterator[bytes]:
            for part in parts:
                for chunk in part.read(0, part.num_bytes):
                    digest.update(chunk)
                    yield chunk

        stored = self._put(f"files/{file_id}", Measured(joined()))
        return stored, digest.hexdigest()

    def _put(self, name: str, measured: Measured) -> Stored:
        self.objects.put(name, cast(BinaryIO, _Stream(iter(measured))))
        return measured.stored

    def delete_upload(self, file_id: str) -> None:
        self.objects.delete([f"files/{file_id}"])

    def delete_part(self, upload_id: str, part_id: str) -> None:
        self.objects.delete([f"uploads/{upload_id}/{part_id}"])

    def delete_parts(self, upload_id: str) -> None:
        self.remove(f"uploads/{upload_id}")

    @contextmanager
    def reading(self, file_id: str, *, sha256: str) -> Iterator[Path]:
        """Meet `ArtifactStore.reading`: a copy, which is gone afterwards."""
        content = self.content(f"files/{file_id}", what=f"file {file_id}")
        with scratch.scratch(self._scratch) as folder:
            _save(content, folder / "file")
            if sha256_of(folder / "file") != sha256:
                raise Gone(f"File {file_id} is damaged: its bytes are not those that were sent.")
            yield folder / "file"

    def content(self, relative: str, *, what: str) -> Content:
        """Meet `ArtifactStore.content`."""
        num_bytes = self.objects.size(relative)
        if num_bytes is None:
            raise vanished(what)
        return Content(num_bytes, lambda first, wanted: self.objects.read(relative, first, wanted))

    def publish(self, relative: str, write: Callable[[Path], None]) -> None:
        """Meet `ArtifactStore.publish`."""
        with scratch.scratch(self._scratch) as folder:
            write(folder)
            seal(folder)
            files = {
                str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()
            }
            if self._is_there(relative, files):
                return
            self.remove(relative)
            last = files.pop(MANIFEST)
            for name, path in [*sorted(files.items()), (MANIFEST, last)]:
                with path.open("rb") as file:
                    self.objects.put(f"{relative}/{name}", file)

    def _is_there(self, relative: str, files: dict[str, Path]) -> bool:
        """Whether the same folder was published before, as far as sizes and manifest tell."""
        kept = {one.name.removeprefix(f"{relative}/"): one for one in self._folder(relative)}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        if {name: one.num_bytes for name, one in kept.items()} != sizes:
            return False
        manifest = kept[MANIFEST]
        found = b"".join(self.objects.read(manifest.name, 0, manifest.num_bytes))
        return found == files[MANIFEST].read_bytes()

    @contextmanager
    def checkpoint(self, relative: str) -> Iterator[Path]:
        """Meet `ArtifactStore.checkpoint`: a copy, which is gone afterwards."""
        with scratch.scratch(self._scratch) as folder:
            self._fetch(relative, folder)
            found = fault(folder)
            if found is not None:
                raise Damaged(found)
            yield folder

    def adapter(self, relative: str) -> Path:
        """Meet `ArtifactStore.adapter`: a copy, kept as long as there is room. Raises Gone."""
        name = f"{relative}/{ADAPTER}"
        kept = self._cache.get(name)
        if kept is None:
            with scratch.scratch(self._scratch) as folder:
                copy = folder / "copy"
                self._fetch(name, copy / ADAPTER)
                self._check(relative, copy)
                seal(copy)
                kept = self._cache.put(name, copy)
        return kept / ADAPTER

    def _check(self, relative: str, copy: Path) -> None:
        """Raise Gone unless the adapter's files are those that the published manifest names."""
        what = f"the adapter in {relative}"
        content = self.content(f"{relative}/{MANIFEST}", what=what)
        said = json.loads(b"".join(content.read(0, content.num_bytes)))
        wanted = {name: sha for name, sha in said.items() if name.startswith(f"{ADAPTER}/")}
        found = {
            str(path.relative_to(copy)): sha256_of(path)
            for path in copy.rglob("*")
            if path.is_file()
        }
        if found != wanted:
            raise Gone(f"The bytes of {what} are damaged: they are not those that were saved.")

    def _fetch(self, relative: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for one in self._folder(relative):
            target = folder / one.name.removeprefix(f"{relative}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _save(self._content_of(one.name, one.num_bytes), target)
            except Gone:
                target.unlink(missing_ok=True)  # removed meanwhile: who checks will say so

    def _content_of(self, name: str, num_bytes: int) -> Content:
        return Content(num_bytes, lambda first, wanted: self.objects.read(name, first, wanted))

    def _folder(self, relative: str) -> Iterator[Listed]:
        return self.objects.listed(f"{relative}/")

    def remove(self, relative: str) -> None:
        """Meet `ArtifactStore.remove`. Without its manifest a folder is not there any more."""
        self._cache.drop(relative)
        names = [one.name for one in self._folder(relative)]
        first = f"{relative}/{MANIFEST}"
        if first in names:
            self.objects.delete([first])
        self.objects.delete(name for name in names if name != first)

    def keep_only(self, parent: str, kept: set[str]) -> None:
        """Meet `ArtifactStore.keep_only`."""
        published = {
            f"{parent}/{'/'.join(one.name.removeprefix(f'{parent}/').split('/')[:2])}"
            for one in self._folder(parent)
        }
        for folder in sorted(published - kept):
            self.remove(folder)

    def holdings(self) -> Iterator[str]:
        """Meet `ArtifactStore.holdings`."""
        said = None
        for root, depth in (("files", 2), ("uploads", 2), ("jobs", 4)):
            for one in self.objects.listed(f"{root}/"):
                relative = "/".join(one.name.split("/")[:depth])
                if relative != said:
                    yield relative
                said = relative

    def clear_scratch(self) -> None:
        """Meet `ArtifactStore.clear_scratch`, on this machine."""
        scratch.clear(self._scratch)

    def clear_abandoned(self) -> int:
        """Meet `ArtifactStore.clear_abandoned`; the store is asked now and then."""
        num_removed = scratch.clear(self._scratch)
        if time.monotonic() < self._look_at:
            return num_removed
        self._look_at = time.monotonic() + LOOK_SECONDS
        found = set(self.objects.unfinished())
        for name, upload_id in sorted(found & self._unfinished):
            self.objects.abort(name, upload_id)
            num_removed += 1
        self._unfinished = found
        return num_removed

    def fault(self) -> str | None:
        """Meet `ArtifactStore.fault`."""
        return self.objects.fault()

    def close(self) -> None:
        """Meet `ArtifactStore.close`."""
        self.objects.close()


class _Stream:
    """Chunks as a file that can be read once."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._rest = b""

    def read(self, num_bytes: int = -1) -> bytes:
        while num_bytes < 0 or len(self._rest) < num_bytes:
            chunk = next(self._source, None)
            if chunk is None:
                break
            self._rest += chunk
        cut = len(self._rest) if num_bytes < 0 else num_bytes
        read, self._rest = self._rest[:cut], self._rest[cut:]
        return read


def _save(content: Content, target: Path) -> None:
    with target.open("wb") as file:
        for chunk in content.read(0, content.num_bytes):
            file.write(chunk)
