"""Fetched folders on this machine's disk, so many bytes of them: the longest unused go first."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

from jobs.artifacts import manifest

log = logging.getLogger(__name__)

# What was asked for so lately may be about to be read.
IN_USE_SECONDS = 600.0


class Cache:
    """Sealed folders by name. Several processes may share one."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._looked_at: set[Path] = set()

    def get(self, name: str) -> Path | None:
        """The folder of that name, if it is here and as it was sealed."""
        folder = self._folder(name)
        try:
            os.utime(folder)
        except FileNotFoundError:
            return None
        if folder not in self._looked_at:
            found = manifest.fault(folder)
            if found is not None:
                log.warning("%s is fetched again: %s", name, found)
                shutil.rmtree(folder, ignore_errors=True)
                return None
            self._looked_at.add(folder)
        return folder

    def put(self, name: str, folder: Path) -> Path:
        """Move a sealed folder here; where it is then."""
        target = self._folder(name)
        self._root.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same bytes
                raise
        os.utime(target)
        self._shrink()
        return target

    def drop(self, name: str) -> None:
        """Forget the folder of that name, and those in it."""
        dropped = self._folder(name).name
        for folder in self._root.glob("*/"):
            if folder.name == dropped or folder.name.startswith(f"{dropped}--"):
                self._forget(folder)

    def _folder(self, name: str) -> Path:
        return self._root / name.replace("/", "--")

    def _forget(self, folder: Path) -> None:
        self._looked_at.discard(folder)
        shutil.rmtree(folder, ignore_errors=True)

    def _shrink(self) -> None:
        used = {folder: _used_at(folder) for folder in self._root.glob("*/")}
        sizes = {folder: _num_bytes(folder) for folder in used}
        taken = sum(sizes.values())
        for folder in sorted(used, key=used.__getitem__):
            if taken <= self._max_bytes or used[folder] > time.time() - IN_USE_SECONDS:
                return
            self._forget(folder)
            taken -= sizes[folder]


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another process has removed it
        return 0.0


def _num_bytes(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_size
        except FileNotFoundError:
            continue
    return found
