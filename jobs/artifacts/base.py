"""What an artifact store does for those who read and write bytes, wherever it keeps them.

A published folder is whole: nobody sees one whose manifest has not been written, and that comes
last. Names are relative: `files/ID`, `uploads/ID/PART`, `jobs/ID/attempt-N/step-N`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from jobs.errors import BodyTooLarge

# The adapter as it is downloaded, in a checkpoint's folder.
ADAPTER_ARCHIVE = "adapter.tar"
# The adapter's files, in a checkpoint's folder.
ADAPTER = "adapter"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Stored:
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Content:
    """Bytes to be served."""

    num_bytes: int
    read: Callable[[int, int], Iterator[bytes]]
    """From the first of them on, so many. Reading blocks."""
    path: Path | None = None
    """The file that they are, on this machine."""


class Damaged(Exception):
    """A published folder is not as it was sealed; the message says what of it is not."""


class ArtifactStore(Protocol):
    """Every method blocks, and may raise StoreAway where the store is on another machine."""

    def put_upload(self, file_id: str, source: BinaryIO, *, max_bytes: int) -> Stored:
        """Stream an upload to its place. Raises BodyTooLarge and then keeps nothing."""
        ...

    def put_part(self, upload_id: str, part_id: str, source: BinaryIO, *, max_bytes: int) -> Stored:
        """Stream a part of an upload to its place. Raises BodyTooLarge and then keeps nothing."""
        ...

    def join_parts(self, upload_id: str, part_ids: list[str], file_id: str) -> tuple[Stored, str]:
        """Write a file of the parts in their order; also the hex MD5 of it.

        Raises Gone when a part's bytes have vanished. The parts stay.
        """
        ...

    def delete_upload(self, file_id: str) -> None: ...

    def delete_part(self, upload_id: str, part_id: str) -> None: ...

    def delete_parts(self, upload_id: str) -> None: ...

    def reading(self, file_id: str, *, sha256: str) -> AbstractContextManager[Path]:
        """An upload as a file of this machine, for as long as the block runs. Raises Gone."""
        ...

    def content(self, relative: str, *, what: str) -> Content:
        """A file to be served. Raises Gone, with `what` in its sentence."""
        ...

    def publish(self, relative: str, write: Callable[[Path], None]) -> object:
        """Run `write` on an empty folder and publish what it wrote at `relative`.

        An earlier folder there (the same attempt saved the same step before) is kept when it is
        the same, else replaced.
        """
        ...

    def size(self, relative: str) -> int:
        """The bytes of all files of a published folder, or of a folder in one."""
        ...

    def checkpoint(self, relative: str) -> AbstractContextManager[Path]:
        """A published folder on this machine, every byte looked at. Raises Damaged."""
        ...

    def adapter(self, relative: str) -> Path:
        """The files of a published folder's adapter on this machine, to be loaded soon."""
        ...

    def remove(self, relative: str) -> None:
        """Remove a published folder, or a folder in one."""
        ...

    def keep_only(self, parent: str, kept: set[str]) -> None:
        """Remove the published folders two levels below `parent` that are not in `kept`."""
        ...

    def holdings(self) -> Iterator[str]:
        """What is kept, whole or not: uploads, folders of parts, published folders."""
        ...

    def clear_scratch(self) -> None:
        """Remove what interrupted writes left behind. Only while nobody else writes here."""
        ...

    def clear_abandoned(self) -> int:
        """Remove what writers left behind that were killed long ago; how many there were."""
        ...

    def fault(self) -> str | None:
        """Why the store cannot be used now, in a sentence for the operator; None if it can."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


class Measured:
    """Chunks on their way, measured. Raises BodyTooLarge as soon as they are too many."""

    def __init__(
        self, source: Iterator[bytes], *, max_bytes: int | None = None, param: str = "file"
    ) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._param = param
        self._digest = hashlib.sha256()
        self._num_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._source:
            self._num_bytes += len(chunk)
            if self._max_bytes is not None and self._num_bytes > self._max_bytes:
                raise BodyTooLarge(
                    f"'{self._param}' is larger than {self._max_bytes:,} bytes, the limit here.",
                    param=self._param,
                )
            self._digest.update(chunk)
            yield chunk

    @property
    def stored(self) -> Stored:
        """What went through."""
        return Stored(num_bytes=self._num_bytes, sha256=self._digest.hexdigest())
