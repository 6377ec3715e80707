"""A published folder's manifest: every file's sha256, by which harm to it is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

MANIFEST = "manifest.json"


def seal(folder: Path) -> None:
    """Write the manifest of what is in a folder, and have all of it on disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(folder)): sha256_of(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, folder / MANIFEST]:
        sync(path)
    sync(folder)


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


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
