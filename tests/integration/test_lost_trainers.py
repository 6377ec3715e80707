"""Trainers that are killed, by the kernel for memory or by others, under a real supervisor."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tampers
from fastapi.testclient import TestClient
from processes import environ
from supervised import (
    SUPERVISOR,
    Script,
    Sessions,
    drain,
    make_claimable,
    messages,
    queued_job,
    row,
)
from trainer_runs import Trainers
from waiting import wait_for

from jobs import halving
from jobs.db import transaction
from jobs.models import Job
from jobs.status import Reason, Status
from jobs.store import events
from service.settings import ServiceSettings
from worker import evidence
from worker.oom_kills import OomKills

ROOT = Path(__file__).parents[2]
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")

# Sequences of 100 tokens, 4 of them a step.
RESOLVED: dict[str, Any] = {
    "hyperparameters": {"batch_size": 2, "group_size": 2, "max_completion_tokens": 60},
    "longest_prompt_tokens": 40,
    "memory": {
        "cpu": {"weights": 10**9, "training_token_bytes": 10**7, "cache_token_bytes": 10**7}
    },
    "machine": {
        "device": "cpu",
        "threads": 1,
        "micro_batch_tokens": 200,
        "cache_tokens": 4096,
    },
}

# As the kernel does: it counts, then it kills.
KILLED_FOR_MEMORY = """
said = {{"phase": "sampling", "done": 1, "total": 2, "peak_bytes": 3 * 10**9}}
print(json.dumps(said), flush=True)
with open({counter!r}, "w") as counter:
    counter.write("oom 1\\noom_kill 1\\n")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def oom_counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file in which a kernel of the test's counts those it has killed for memory."""
    counter = tmp_path / "sys/fs/cgroup/memory.events"
    counter.parent.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")

    def none_killed() -> OomKills:
        counter.write_text("oom 0\noom_kill 0\n")
        return OomKills(tmp_path)

    monkeypatch.setattr(evidence, "OomKills", none_killed)
    return counter


def most(sessions: Sessions, job_id: str) -> tuple[int, ...] | None:
    sizes = row(sessions, job_id).resolved["machine"].get("most")
    return sizes and (sizes["micro_batch_tokens"], sizes["cache_tokens"])


def test_a_trainer_that_was_killed_for_memory_is_followed_by_one_that_does_half_at_a_time(
    settings: ServiceSettings, sessions: Sessions, trainer: Script, oom_counter: Path
) -> None:
    job_id = queued_job(sessions, RESOLVED)
    trainer(KILLED_FOR_MEMORY.format(counter=str(oom_counter)))
    for sizes in ((100, 200), (100, 100)):
        drain(settings)
        job = row(sessions, job_id)
        assert (job.status, job.num_losses, job.reason) == (
            Status.QUEUED,
            0,
            Reason.OUT_OF_MEMORY,
        )
        assert most(sessions, job_id) == sizes
        assert f"{sizes[1]} sampled at a time, half as many" in messages(sessions, job_id)[-1]
        make_claimable(sessions, job_id)
    for num_losses in (1, 2):
        drain(settings)
        assert row(sessions, job_id).num_losses == num_losses
        make_claimable(sessions, job_id)
    drain(settings)

    job = row(sessions, job_id)
    assert (job.status, job.reason) == (Status.FAILED, Reason.OUT_OF_MEMORY)
    assert job.error_message is not None
    assert "while sampling, with 3.0 GB at its peak" in job.error_message
    assert "A single sequence of 100 tokens needs more memory than there is" in job.error_message
    assert "one of 50 tokens fits: lower max_completion_tokens" in job.error_message
    with sessions() as session:
        [last, *_] = events.list_page(session, job_id, after_seq=None, limit=1).rows
    assert last.level == "error"
    assert last.data == {"ended": "SIGKILL", "phase": "sampling", "peak_bytes": 3 * 10**9}
    assert most(sessions, job_id) == (100, 100)


@pytest.mark.parametrize("change", ["somebody else", "loading"])
def test_a_death_that_smaller_parts_do_not_prevent_is_a_loss(
    settings: ServiceSettings,
    sessions: Sessions,
    trainer: Script,
    oom_counter: Path,
    change: str,
) -> None:
    source = KILLED_FOR_MEMORY.format(counter=str(oom_counter))
    expected = Reason.OUT_OF_MEMORY
    match change:
        case "somebody else":
            source, expected = source.replace("oom_kill 1", "oom_kill 0"), Reason.TRAINER_CRASHED
        case "loading":
            source = source.replace("sampling", "loading")
    job_id = queued_job(sessions, RESOLVED)
    trainer(source)
    drain(settings)
    job = row(sessions, job_id)
    assert (job.status, job.reason, job.num_losses) == (Status.QUEUED, expected, 1)
    assert most(sessions, job_id) is None


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A memory cgroup of the test's own, with 200 MB."""
    lines = Path("/proc/self/cgroup").read_text().splitlines() if sys.platform == "linux" else []
    own = [line.split(":", 2)[2] for line in lines if line.split(":", 2)[1] == "memory"]
    folder = MEMORY_CGROUPS / "".join(own).lstrip("/") / f"honed-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(200 * 10**6))
    except OSError as error:
        pytest.skip(f"No memory cgroup (version 1) can be made here: {error}")
    yield folder
    wait_for(lambda: not (folder / "cgroup.procs").read_text(), seconds=20, what="its emptiness")
    folder.rmdir()


def test_the_kernels_own_killer_is_recognised(
    settings: ServiceSettings, sessions: Sessions, trainer: Script, memory_cgroup: Path
) -> None:
    job_id = queued_job(sessions, RESOLVED)
    script = trainer.write(
        """
        print(json.dumps({"phase": "training", "done": 1, "total": 2}), flush=True)
        time.sleep(0.5)
        held = []
        while True:
            held.append(bytearray(1 << 20))
        """
    )
    joining = f"import os; open('{memory_cgroup}/cgroup.procs', 'w').write(str(os.getpid()))"
    done = subprocess.run(
        [sys.executable, "-c", joining + SUPERVISOR, str(script)],
        env=environ(
            data_dir=settings.data_dir, database_url=settings.sqlalchemy_url, renew_seconds=0.1
        ),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    job = row(sessions, job_id)
    assert (job.status, job.reason) == (Status.QUEUED, Reason.OUT_OF_MEMORY)
    assert most(sessions, job_id) == (100, 200)
    assert "out-of-memory killer ended the trainer process while training" in "".join(
        messages(sessions, job_id)
    )


def test_a_trainer_does_no_more_at_a_time_than_what_was_stored(trainers: Trainers) -> None:
    asked = {"max_steps": 2, "batch_size": 2, "group_size": 4, "max_completion_tokens": 8}
    asked |= {"eval_interval": 2, "eval_samples": 2, "checkpoint_interval": 1}
    job_id = trainers.submit(**asked)
    assert trainers.attempt(job_id, tampers.KillIn("sampling", step=2, call=1)) < 0
    with transaction(trainers.sessions) as session:
        job = session.get_one(Job, job_id)
        smaller = halving.halved(job.resolved)
        assert smaller is not None
        job.resolved = smaller.resolved
    sizes = smaller.resolved["machine"]["most"]

    assert trainers.attempt(job_id) == 0

    assert trainers.outcome()["outcome"] == "succeeded"
    assert "Resumed from the checkpoint of step 1" in trainers.events(job_id)
    last = trainers.rows(job_id)[-1]
    assert last["memory/micro_batch_tokens"] == sizes["micro_batch_tokens"]
    assert last["memory/cache_tokens"] == sizes["cache_tokens"]
    assert last["memory/num_halvings"] == 1


def test_the_reason_why_a_lost_job_waits_is_on_the_job(
    client: TestClient,
    settings: ServiceSettings,
    trainers: Trainers,
    trainer: Script,
) -> None:
    job_id = trainers.submit(max_steps=1, batch_size=1, group_size=2)
    trainer("sys.exit('no luck')")
    drain(settings)
    job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert (job["status"], job["reason"]) == ("queued", "trainer_crashed")
    assert job["waiting_for"].startswith("The trainer process exited with code 1: no luck. ")
    assert "The job is tried again from 20" in job["waiting_for"]
