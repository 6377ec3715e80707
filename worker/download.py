"""A hub model's files into the cache, by a process of its own: a download can be ended at once.

`python -m worker.download REPO REVISION` is that process. It exits with FINAL and a sentence on
standard error when another try would fail the same way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

from jobs.settings import Settings
from worker import hub
from worker.hub import Pinned
from worker.process_tie import die_with_parent

COMMAND = (sys.executable, "-m", "worker.download")
FINAL = 3
POLL_SECONDS = 0.2
RETRY_SECONDS = 5.0
PATIENCE_SECONDS = 600.0
GB = 1e9


def download(
    pinned: Pinned,
    settings: Settings,
    *,
    progress: Callable[[int, int], None],
    interrupt: Callable[[], None],
    patience_seconds: float = PATIENCE_SECONDS,
) -> Path:
    """The folder with all of the pinned model, downloaded where it must be.

    `progress` gets the bytes that are here and those there are, whenever more have come; what
    `interrupt` raises ends the download. Raises JobFailure for what no second try helps, and
    ConnectionError when nothing has come for `patience_seconds`.
    """
    if pinned["folder"] is not None:
        return Path(pinned["folder"])
    if folder := hub.cached(pinned):
        return folder
    hub.refuse_offline(pinned, settings)
    _check_disk(pinned)
    watch = _Watch(pinned, progress, interrupt)
    while (fault := _run(pinned, watch)) is not None:
        if time.monotonic() - watch.moved_at > patience_seconds:
            raise ConnectionError(fault)
        retry_at = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < retry_at:
            watch.look()
            time.sleep(POLL_SECONDS)
    folder = hub.cached(pinned)
    if folder is None:
        raise ConnectionError(f"The hub sent other files of '{pinned['name']}' than it had listed.")
    return folder


class _Watch:
    """Looks at how far the download is, and whether it is still wanted."""

    def __init__(
        self,
        pinned: Pinned,
        progress: Callable[[int, int], None],
        interrupt: Callable[[], None],
    ) -> None:
        self.pinned = pinned
        self.progress = progress
        self.interrupt = interrupt
        self.moved_at = time.monotonic()
        self._done = -1

    def look(self) -> None:
        """Only bytes that came are progress: a download that stands still must not look alive."""
        self.interrupt()
        done, total = hub.num_bytes(self.pinned)
        if done != self._done:
            self._done, self.moved_at = done, time.monotonic()
            self.progress(done, total)


def _run(pinned: Pinned, watch: _Watch) -> str | None:
    """One try; what was wrong, or None when all has come. Raises JobFailure, and on interrupt."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*COMMAND, pinned["name"], pinned["revision"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )
        try:
            while (code := process.poll()) is None:
                watch.look()
                time.sleep(POLL_SECONDS)
        finally:
            _end(process)
        if code == 0:
            return None
        errors.seek(0)
        fault = (errors.read().strip().splitlines() or [f"exit code {code}"])[-1]
    if code == FINAL:
        raise hub.unavailable(fault)
    return fault


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it, and take away the parts of files that it leaves: nobody can go on with them."""
    parts: list[str] = []
    with contextlib.suppress(psutil.Error):  # it had ended by itself, and had tidied up
        opened = psutil.Process(process.pid).open_files()
        parts = [file.path for file in opened if file.path.endswith(".incomplete")]
    process.kill()
    process.wait()
    for part in parts:
        Path(part).unlink(missing_ok=True)


def _check_disk(pinned: Pinned) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    disk = next(folder for folder in (cache, *cache.parents) if folder.exists())
    done, total = hub.num_bytes(pinned)
    missing, free = total - done, shutil.disk_usage(disk).free
    if missing > free:
        raise hub.unavailable(
            f"The model '{pinned['name']}' needs {missing / GB:.1f} GB more in the model cache "
            f"{cache}, where {free / GB:.1f} GB are free. The operator makes room there, or sets "
            "HF_HOME to a folder on a larger disk."
        )


def main() -> int:
    die_with_parent()
    repo, revision = sys.argv[1:]
    try:
        hub.fetch(repo, revision, hub.PATTERNS)
    except hub.HUB_ERRORS as error:
        sys.stderr.write(f"{hub.explain(error, repo, revision)}\n")
        # What the hub answers will not change by asking again; all else may.
        is_final = isinstance(error, RepositoryNotFoundError | OfflineModeIsEnabled)
        return FINAL if is_final else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
