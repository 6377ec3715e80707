"""What holds after any fault: each rule gives the sentences that say how it was broken."""

import hashlib
import io
import re
import tarfile
import urllib.request
from collections.abc import Iterator

from customer import CHECKPOINT_EVERY, STEPS, Ledger
from topology import Topology

from jobs.status import TERMINAL

STEP_EVENT = re.compile(r"Step (\d+)/")
ATTEMPT_EVENT = re.compile(r"Fine-tuning job goes on \(attempt (\d+)\)")
END_EVENTS = ("The job has successfully completed", "Fine-tuning job cancelled")
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
    topology: Topology,
    job_id: str,
    *,
    expected_sha256: str,
    excused: set[str],
    damaged: dict[str, int],
    is_cancelled: bool,
) -> Iterator[str]:
    """Of a job that is over."""
    job = topology.user.job(job_id)
    yield from _events(topology, job_id)
    yield from _zombies(topology, job_id)
    messages = _messages(topology, job_id)
    yield from _repeated(messages, excused)
    if job["attempt"] > 1 and not any(map(ATTEMPT_EVENT.match, messages)):
        yield f"nothing tells of its {job['attempt']} attempts"
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
    yield from _incomplete(topology, job_id)
    passed_over = [one for one, attempt in damaged.items() if job["attempt"] > attempt]
    yield from _silent_about(passed_over, messages)
    if adapter_sha256(topology, job_id) != expected_sha256:
        yield "its final adapter is not that of the undisturbed run"


def _messages(topology: Topology, job_id: str) -> list[str]:
    """Of its events, as the client reads them, the oldest first."""
    listed = topology.user.client.fine_tuning.jobs.list_events(job_id, limit=100)
    return [event.message for event in listed][::-1]


def _incomplete(topology: Topology, job_id: str) -> Iterator[str]:
    """Of a job that succeeded: each step once, and one final adapter."""
    steps = [row["step"] for row in topology.user.metrics(job_id)]
    if steps != list(range(STEPS + 1)):
        yield f"its metrics have the steps {steps}"
    query = "SELECT step FROM samples WHERE job_id = :id ORDER BY step"
    sampled = [row.step for row in topology.rows(query, id=job_id)]
    if sampled != list(range(1, STEPS + 1)):
        yield f"it has samples of the steps {sampled}"
    told = [one for one in _messages(topology, job_id) if STEP_EVENT.match(one)]
    if len(told) != STEPS + 1:
        yield f"its events tell {len(told)} steps"
    results = topology.user.job(job_id)["result_files"]
    if len(results) != 1:
        yield f"it has the result files {results}"
    else:
        lines = topology.user.client.files.content(results[0]).text.splitlines()
        if len(lines) != len(steps) + 1:
            yield f"its result file has {len(lines)} lines"
    finals = topology.rows(
        "SELECT id FROM checkpoints WHERE job_id = :id AND step = :step", id=job_id, step=STEPS
    )
    if len(finals) != 1:
        yield f"it has {len(finals)} final adapters"


def _events(topology: Topology, job_id: str) -> Iterator[str]:
    stored = topology.rows(
        "SELECT seq, message FROM events WHERE job_id = :id ORDER BY seq", id=job_id
    )
    if [row.seq for row in stored] != list(range(1, len(stored) + 1)):
        yield f"its events have the numbers {[row.seq for row in stored]}"
    messages = [row.message for row in stored]
    if _messages(topology, job_id) != messages:
        yield "the client reads other events than are stored"
    told = [int(found[1]) for message in messages if (found := STEP_EVENT.match(message))]
    if told != list(range(len(told))):
        yield f"its events tell the steps {told}"
    ends = [message for message in messages if message in END_EVENTS]
    if len(ends) > 1:
        yield f"it ended more than once: {ends}"


def _zombies(topology: Topology, job_id: str) -> Iterator[str]:
    """A step that a later attempt has made is not written over by an earlier one."""
    for table in ("metrics", "samples", "checkpoints"):
        query = f"SELECT step, attempt FROM {table} WHERE job_id = :id ORDER BY step"
        attempts = [row.attempt for row in topology.rows(query, id=job_id)]
        if attempts != sorted(attempts):
            yield f"an attempt that had lost the job wrote to its {table}: {attempts}"


def _repeated(messages: list[str], excused: set[str]) -> Iterator[str]:
    """Work done twice: from where an attempt took up to where the one before it had come."""
    allowed = CHECKPOINT_EVERY * (2 if "corrupt_checkpoint" in excused else 1)
    furthest, is_begun = 0, False
    for message in messages:
        if ATTEMPT_EVENT.match(message):
            is_begun = True
        elif found := STEP_EVENT.match(message):
            # Nothing but a state that is taken up says where it goes on; without, it is at 0.
            if is_begun and furthest > allowed:
                yield f"all {furthest} steps were done again"
            furthest, is_begun = int(found[1]), False
        elif found := RESUMED_EVENT.match(message):
            if furthest - int(found[1]) > allowed:
                yield f"{furthest - int(found[1])} steps were done again"
            is_begun = False


def _silent_about(passed_over: list[str], messages: list[str]) -> Iterator[str]:
    """A harmed checkpoint is passed over for the one before it, and the job's events say so."""
    for checkpoint_id in passed_over:
        if not any(f"{checkpoint_id} of step" in message for message in messages):
            yield f"nothing is said of its damaged checkpoint {checkpoint_id}"


def broken_by_service(topology: Topology, ledger: Ledger, ends: dict[str, str]) -> Iterator[str]:
    """Whatever was acknowledged is there, once; what had ended so has ended so still."""
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
        elif ends.get(job_id, status) != status:
            yield f"{job_id} had ended {ends[job_id]}, and is {status} now"
        yield from (f"{job_id}: {sentence}" for sentence in _events(topology, job_id))
    for job_id, code in ledger.doomed.items():
        error = topology.user.job(job_id)["error"] or {}
        if error.get("code") != code:
            yield f"{job_id} was to fail as {code}: {jobs.get(job_id)} {error}"
