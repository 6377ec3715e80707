"""What holds after any fault: each rule gives the sentences that say how it was broken."""

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from customer import CHECKPOINT_EVERY, STEPS, Ledger
from topology import Topology

from jobs.artifacts import MANIFEST, sha256_of
from jobs.status import TERMINAL

TIDY_SECONDS = 30.0
STEP_EVENT = re.compile(r"Step (\d+)/")
ATTEMPT_EVENT = re.compile(r"Fine-tuning job goes on \(attempt (\d+)\)")
RESUMED_EVENT = re.compile(r"Resumed from the checkpoint of step (\d+)")


def adapter_sha256(topology: Topology, job_id: str) -> str:
    """Of the weights, as they are downloaded."""
    request = urllib.request.Request(
        f"{topology.user.url}/v1/fine_tuning/jobs/{job_id}/adapter",
        headers={"Authorization": f"Bearer {topology.user.client.api_key}"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        archive = response.read()
        if response.headers["ETag"] != f'"{hashlib.sha256(archive).hexdigest()}"':
            raise AssertionError("the archive is not what its ETag says")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        weights = tar.extractfile("adapter_model.safetensors")
        assert weights is not None
        return hashlib.sha256(weights.read()).hexdigest()


def broken_by_job(
    topology: Topology, job_id: str, *, expected_sha256: str, excused: set[str], is_cancelled: bool
) -> Iterator[str]:
    """Of a job that is over."""
    job = topology.user.job(job_id)
    events = [
        event.to_dict()
        for event in topology.user.client.fine_tuning.jobs.list_events(job_id, limit=100)
    ][::-1]
    yield from _events(topology, job_id, events)
    yield from _repeated(events, excused)
    if is_cancelled:
        if job["status"] != "cancelled":
            yield f"its cancel was acknowledged, and it ended {job['status']}"
        return
    reason = (job["error"] or {}).get("code")
    if job["status"] == "failed" and reason in excused:
        return
    if job["status"] != "succeeded":
        yield f"it ended {job['status']}: {job['error']}"
        return
    steps = [row["step"] for row in topology.user.metrics(job_id)]
    if steps != list(range(STEPS + 1)):
        yield f"its metrics have the steps {steps}"
    if sum(event["message"] == "The job has successfully completed" for event in events) != 1:
        yield "it did not succeed exactly once by its events"
    if len(job["result_files"]) != 1:
        yield f"it has the result files {job['result_files']}"
    finals = topology.rows(
        "SELECT id FROM checkpoints WHERE job_id = :id AND step = :step", id=job_id, step=STEPS
    )
    if len(finals) != 1:
        yield f"it has {len(finals)} final adapters"
    if adapter_sha256(topology, job_id) != expected_sha256:
        yield "its final adapter is not that of the undisturbed run"


def _events(topology: Topology, job_id: str, events: list[dict[str, Any]]) -> Iterator[str]:
    stored = topology.rows(
        "SELECT seq, message FROM events WHERE job_id = :id ORDER BY seq", id=job_id
    )
    if [row.seq for row in stored] != list(range(1, len(stored) + 1)):
        yield f"its events have the numbers {[row.seq for row in stored]}"
    if [event["message"] for event in events] != [row.message for row in stored]:
        yield "the client reads other events than are stored"
    told = [int(found[1]) for event in events if (found := STEP_EVENT.match(event["message"]))]
    if told != list(range(len(told))):
        yield f"its events tell the steps {told}"


def _repeated(events: list[dict[str, Any]], excused: set[str]) -> Iterator[str]:
    """Work done twice: from where an attempt took up to where the one before it had come."""
    allowed = CHECKPOINT_EVERY * (2 if "corrupt_checkpoint" in excused else 1)
    furthest = 0
    for event in events:
        if found := STEP_EVENT.match(event["message"]):
            furthest = int(found[1])
        elif found := RESUMED_EVENT.match(event["message"]):
            if furthest - int(found[1]) > allowed:
                yield f"{furthest - int(found[1])} steps were done again"
        elif "it starts again from the base model" in event["message"] and furthest > allowed:
            yield f"all {furthest} steps were done again"


def broken_by_service(topology: Topology, ledger: Ledger) -> Iterator[str]:
    """Whatever was acknowledged is there, once."""
    yield from ledger.faults
    client = topology.user.client
    listed = {file.id for file in client.files.list(purpose="fine-tune", limit=1000)}
    if listed != set(ledger.files):
        lost, extra = set(ledger.files) - listed, listed - set(ledger.files)
        yield f"files that were acknowledged are gone: {lost}; files that nobody made: {extra}"
    for file_id in listed & set(ledger.files):
        content = client.files.content(file_id).content
        if hashlib.sha256(content).hexdigest() != ledger.files[file_id]:
            yield f"{file_id} has other bytes than were sent"
    jobs = {job.id: job.status for job in client.fine_tuning.jobs.list(limit=100)}
    if set(jobs) != set(ledger.jobs):
        lost, extra = set(ledger.jobs) - set(jobs), set(jobs) - set(ledger.jobs)
        yield f"jobs that were acknowledged are gone: {lost}; jobs that nobody made: {extra}"
    for job_id, status in jobs.items():
        if status not in TERMINAL:
            yield f"{job_id} is still {status}"
        elif job_id in ledger.cancelled and status != "cancelled":
            yield f"the cancel of {job_id} was acknowledged, and it ended {status}"


def broken_by_leftovers(topology: Topology) -> Iterator[str]:
    """Once all jobs are over, and the sweeper had time to tidy up."""
    held = topology.rows("SELECT id, lease_owner FROM jobs WHERE lease_owner IS NOT NULL")
    yield from (f"{row.id} is over and its lease is held by {row.lease_owner}" for row in held)
    # Half-written bytes of killed processes go when they are old: so they are now.
    for scratch in (topology.artifacts / "tmp").rglob("*"):
        os.utime(scratch, (0, 0))
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
    """After the stack's orderly end."""
    deadline = time.monotonic() + 10
    while (left := topology.processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        with contextlib.suppress(Exception):
            yield f"left running: {process.pid} {' '.join(process.cmdline()[-3:])}"
            process.kill()
