"""What must not be left once all is over: leases, half artifacts, processes, temporary files."""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path

from topology import Topology, temporary_folder

from jobs.artifacts import MANIFEST, sha256_of

TIDY_SECONDS = 30.0


def broken_by_leftovers(topology: Topology) -> Iterator[str]:
    """Once all jobs are over, and the sweeper had time to tidy up."""
    held = topology.rows("SELECT id, lease_owner FROM jobs WHERE lease_owner IS NOT NULL")
    yield from (f"{row.id} is over and its lease is held by {row.lease_owner}" for row in held)
    deadline = time.monotonic() + TIDY_SECONDS
    while (left := [*_litter(topology)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    yield from left


def _litter(topology: Topology) -> Iterator[str]:
    listed = {row.folder for row in topology.rows("SELECT folder FROM checkpoints")}
    found = {
        str(path.relative_to(topology.artifacts))
        for path in topology.artifacts.glob("jobs/*/attempt-*/step-*")
    }
    if listed != found:
        yield f"checkpoints without bytes: {listed - found}; bytes without one: {found - listed}"
    for folder in sorted(found):
        if (topology.artifacts / folder / "state").exists():
            yield f"{folder} still has its training state"
        yield from _half(topology.artifacts / folder)
    uploads = {row.id for row in topology.rows("SELECT id FROM files")}
    kept = {path.name for path in (topology.artifacts / "files").iterdir()}
    if kept != uploads:
        yield f"files without bytes: {uploads - kept}; bytes without a file: {kept - uploads}"
    for scratch in (topology.artifacts / "tmp").glob("*"):
        yield f"left behind: {scratch.relative_to(topology.artifacts)}"


def _half(folder: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, digest in manifest.items():
            if not name.startswith("state/") and sha256_of(folder / name) != digest:
                yield f"{folder.name}/{name} is not what was published"
        return
    yield f"{folder} is not whole"


def broken_by_processes(topology: Topology) -> Iterator[str]:
    """After the stack's orderly end: no process, no lock on a device, no temporary file."""
    deadline = time.monotonic() + 10
    while (left := topology.processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        with contextlib.suppress(Exception):
            yield f"left running: {process.pid} {' '.join(process.cmdline()[-3:])}"
            process.kill()
    for folder in (temporary_folder(topology.folder), topology.folder / "run" / "tmp"):
        for path in folder.glob("*"):
            yield f"left behind: {path.name} in the folder for temporary files"
    for lock in (topology.folder / "run" / "slots").rglob("*"):
        if lock.is_file():
            with lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield f"left locked: {lock.relative_to(topology.folder)}"
