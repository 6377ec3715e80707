"""A disk without room: nothing is half published, no job is lost, and all goes on by itself."""

import errno
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from supervised import Script, Sessions, drain, make_claimable, messages, queued_job, row
from trainer_runs import Trainers
from waiting import wait_for

from jobs import disk
from jobs.artifacts import is_whole
from jobs.db import transaction
from jobs.errors import JobFailure
from jobs.models import Job
from jobs.status import Reason, Status
from jobs.store import attempts, events, losses, metrics
from jobs.store.attempts import Claim
from service.doorbell import Doorbell
from service.settings import ServiceSettings
from service.sweeper import sweep
from worker import report
from worker.train import Run

SUCCEEDS = 'print(json.dumps({"outcome": "succeeded", "verdict": "unknown"}), flush=True)'


def fill(folder: Path) -> Path:
    """Take all the room there is; the file that has it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            until_full(partial(file.write, b"x" * size))
    return filler


def until_full(write: Callable[[], object]) -> None:
    """Write again and again until there is no room."""
    while True:
        try:
            write()
        except (OSError, OperationalError) as error:
            if not disk.is_full(error):
                raise
            return


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[None]:
    """A disk of its own at the folder, with what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "honed-test", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"No small disk can be mounted here: {done.stderr.strip()}")
    try:
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass(frozen=True)
class FillIn:
    """No room from the first word of a step's sampling on."""

    folder: Path
    step: int

    def __call__(self) -> None:
        report.RETRY_SECONDS = 0.01
        tell, is_full = Run.tell, threading.Event()

        def filling(run: Run, phase: str, done: int, total: int) -> None:
            tell(run, phase, done, total)
            is_due = phase == "sampling" and run.trainer.counts.step == self.step - 1
            if is_due and not is_full.is_set():
                is_full.set()
                run.reporter.wait()
                fill(self.folder)

        Run.tell = filling  # type: ignore[method-assign]


def test_a_checkpoint_that_finds_no_room_is_not_half_there_and_is_saved_later(
    trainers: Trainers, settings: ServiceSettings
) -> None:
    with small_disk(settings.artifacts_dir, size="64m"):
        asked = {"max_steps": 3, "batch_size": 2, "group_size": 4, "max_completion_tokens": 6}
        asked |= {"eval_interval": 3, "eval_samples": 2, "checkpoint_interval": 1}
        job_id = trainers.submit(**asked)

        assert trainers.attempt(job_id, FillIn(settings.artifacts_dir, step=2)) == 0

        outcome = trainers.outcome()
        assert (outcome["outcome"], outcome["reason"]) == ("failed", "disk_full")
        assert "No space left on device" in outcome["message"]
        assert "free some room, and the job goes on by itself" in outcome["message"]
        [kept] = trainers.checkpoints(job_id).values()
        assert is_whole(kept.parent)
        assert list((settings.artifacts_dir / "tmp").iterdir()) == []
        published = [path.name for path in settings.artifacts_dir.glob("jobs/*/*/*")]
        assert published == ["step-1"]

        with transaction(trainers.sessions) as session:
            failure = JobFailure(Reason(outcome["reason"]), outcome["message"])
            losses.wait(session, Claim(job_id, 1), failure)
            session.get_one(Job, job_id).claimable_at = 0.0
        (settings.artifacts_dir / "filler").unlink()
        assert trainers.attempt(job_id) == 0
        assert trainers.outcome()["outcome"] == "succeeded"
        assert "Resumed from the checkpoint of step 1" in trainers.events(job_id)
        assert [one["step"] for one in trainers.rows(job_id)] == [0, 1, 2, 3]


@pytest.mark.on_both_databases
def test_a_job_whose_trainer_finds_no_room_waits_for_as_long_as_it_takes(
    settings: ServiceSettings, sessions: Sessions, trainer: Script
) -> None:
    job_id = queued_job(sessions)
    said = {"outcome": "failed", "reason": "disk_full", "message": "The disk is full."}
    trainer(f"print({json.dumps(said)!r}, flush=True)")
    for _ in range(settings.max_losses + 1):
        drain(settings)
        job = row(sessions, job_id)
        assert (job.status, job.reason, job.num_losses) == (Status.QUEUED, Reason.DISK_FULL, 0)
        assert messages(sessions, job_id)[-1].startswith("The disk is full. The job is queued")
        make_claimable(sessions, job_id)
    trainer(SUCCEEDS)
    drain(settings)
    assert row(sessions, job_id).status == Status.SUCCEEDED


def test_a_trainer_whose_log_finds_no_room_is_started_later(
    settings: ServiceSettings, sessions: Sessions, trainer: Script
) -> None:
    job_id, behind = queued_job(sessions), queued_job(sessions)
    trainer(SUCCEEDS)
    with small_disk(settings.logs_dir, size="1m"):
        (settings.logs_dir / "jobs").mkdir()
        files = exhaust_names(settings.logs_dir)
        drain(settings)
        for one in (job_id, behind):
            job = row(sessions, one)
            assert (job.status, job.reason) == (Status.QUEUED, Reason.DISK_FULL)
            assert (losses.sentence(job) or "").startswith("The disk is full (")
            make_claimable(sessions, one)
        for file in files:
            file.unlink()
        drain(settings)
    assert {row(sessions, one).status for one in (job_id, behind)} == {Status.SUCCEEDED}


def exhaust_names(folder: Path) -> list[Path]:
    """As many files as the disk has names for: it has room for no other."""
    subprocess.run(["mount", "-o", "remount,nr_inodes=20", str(folder)], check=True)
    names = (folder / f"file-{number}" for number in count())
    until_full(lambda: next(names).touch())
    return list(folder.glob("file-*"))


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_an_end_whose_result_file_finds_no_room_comes_later(
    settings: ServiceSettings, sessions: Sessions, trainer: Script, end: str
) -> None:
    job_id = queued_job(sessions)
    with transaction(sessions) as session:
        metrics.put(session, job_id, step=1, attempt=1, data={"reward": 0.5})
    said = {"outcome": end, "verdict": "unknown", "reason": "no_progress", "message": "No."}
    trainer(f"print({json.dumps(said)!r}, flush=True)")
    with small_disk(settings.artifacts_dir, size="1m"):
        filler = fill(settings.artifacts_dir)
        drain(settings)
        job = row(sessions, job_id)
        assert (job.status, job.reason) == (Status.QUEUED, Reason.DISK_FULL)
        assert job.result_file is None
        filler.unlink()
        make_claimable(sessions, job_id)
        drain(settings)
        job = row(sessions, job_id)
        assert job.status == end
        assert job.result_file is not None
        written = settings.artifacts_dir / "files" / job.result_file
        assert written.read_text().startswith("step,")


def test_a_lost_job_whose_result_file_finds_no_room_is_ended_by_a_later_sweep(
    settings: ServiceSettings, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = queued_job(sessions)
    settings = settings.model_copy(update={"max_losses": 1})
    with transaction(sessions) as session:
        metrics.put(session, job_id, step=1, attempt=1, data={"reward": 0.5})
        attempts.claim(session, worker="w", lease_seconds=-1)
    doorbell = Doorbell(settings)
    with small_disk(settings.artifacts_dir, size="1m"):
        filler = fill(settings.artifacts_dir)
        sweep(sessions, doorbell, settings)
        assert "its result file needs room" in caplog.text
        assert row(sessions, job_id).status == Status.RUNNING
        filler.unlink()
        sweep(sessions, doorbell, settings)
        assert row(sessions, job_id).status == Status.FAILED
    doorbell.close()


def test_a_database_without_room_loses_no_job(
    settings: ServiceSettings, sessions: Sessions, trainer: Script, tmp_path: Path
) -> None:
    """SQLite's folder and all else on one full disk, while an attempt is under way."""
    with small_disk(settings.data_dir, size="3m"):
        job_id, other = queued_job(sessions), queued_job(sessions, priority=-1)
        may_end = tmp_path / "may end"
        trainer(
            f"""
            while not os.path.exists({str(may_end)!r}):
                time.sleep(0.05)
            {SUCCEEDS}
            """
        )

        def work() -> None:
            with suppress(OperationalError):  # the worker's task ends with it, and comes again
                drain(settings)

        working = threading.Thread(target=work)
        working.start()
        wait_for(lambda: row(sessions, job_id).status == "running", seconds=30, what="the claim")
        filler = fill(settings.data_dir)
        use_up(sessions, other)
        may_end.touch()
        working.join(60)
        assert not working.is_alive()
        assert row(sessions, job_id).status == Status.RUNNING

        filler.unlink()
        with transaction(sessions) as session:
            session.get_one(Job, job_id).lease_expires_at = 1.0
        doorbell = Doorbell(settings)
        sweep(sessions, doorbell, settings)
        doorbell.close()
        assert row(sessions, job_id).status == Status.QUEUED
        make_claimable(sessions, job_id)
        drain(settings)
        assert row(sessions, job_id).status == Status.SUCCEEDED


def use_up(sessions: Sessions, job_id: str) -> None:
    """Write until the database finds no room for the least that it could write."""

    def add_event(size: int) -> None:
        with transaction(sessions) as session:
            events.add(session, job_id, "x" * size)

    for size in (100_000, 1):
        until_full(partial(add_event, size))


def no_room(code: int) -> OSError:
    return OSError(code, "nothing")


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (no_room(errno.ENOSPC), True),
        (no_room(errno.EDQUOT), True),
        (no_room(errno.EACCES), False),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("something else"), False),
    ],
)
def test_a_full_disk_is_told_from_other_faults(error: Exception, is_full: bool) -> None:
    assert disk.is_full(error) is is_full
    wrapped: Any = RuntimeError("while saving")
    wrapped.__cause__ = error
    assert disk.is_full(wrapped) is is_full
