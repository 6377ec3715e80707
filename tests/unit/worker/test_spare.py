"""The spare process: what it forks is as a process of its own would be, and dies when it should."""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import has_ended, wait_for

from worker import start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are tied on Linux")

# What a job's process is here: it says what it finds, and waits for a word where it is asked to.
JOB = """
import json, os, subprocess, sys

num_runs = 0

def main():
    global num_runs
    num_runs += 1
    child = subprocess.Popen(["sleep", "600"]) if "child" in sys.argv else None
    said = {"argv": sys.argv, "runs": num_runs, "pid": os.getpid(), "seen": dict(os.environ),
            "child": child.pid if child else None, "group": os.getpgrp()}
    print(json.dumps(said), flush=True)
    if "wait" in sys.argv:
        sys.stdin.readline()
    print("to the log", file=sys.stderr, flush=True)
    return int(sys.argv[1])

if __name__ == "__main__":
    sys.exit(main())
"""
MAIN = "import sys; from worker import spare; spare.MODULES = ('a_job',); {}; spare.main()"
FIT = "spare.is_fit_to_fork = lambda: True"


@pytest.fixture
def spares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[start.Spares]:
    (tmp_path / "a_job.py").write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(start.__file__).parents[1]}")
    monkeypatch.setattr(start, "COMMAND", (sys.executable, "-c", MAIN.format(FIT)))
    monkeypatch.setattr(start, "MODULES", ("a_job",))
    monkeypatch.setattr(start, "RESTART_SECONDS", 0.0)
    spares = start.Spares()
    monkeypatch.setattr(start, "_spares", spares)
    yield spares
    spares.close()


class Job:
    """A started process with its pipes."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        keep: tuple[int, ...] = (),
        lease_seconds: float = 60,
    ) -> None:
        stdin, self.requests = os.pipe()
        said, stdout = os.pipe()
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.process = start.start(
                [sys.executable, "-m", "a_job", *arguments],
                environ={**os.environ, "SLOT": "7"},
                stdin=stdin,
                stdout=stdout,
                stderr=log.fileno(),
                keep=keep,
                lease_seconds=lease_seconds,
            )
        os.close(stdin)
        os.close(stdout)
        with os.fdopen(said) as lines:
            self.said: dict[str, Any] = json.loads(lines.readline())

    @property
    def pid(self) -> int:
        return int(self.said["pid"])

    def finish(self) -> int | None:
        os.close(self.requests)
        return self.process.wait(20)


def is_gone(pid: int) -> bool:
    try:
        return has_ended(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def is_forked(job: Job) -> bool:
    return isinstance(job.process, start.Forked)


def test_each_job_has_a_process_of_its_own_with_all_it_was_given(
    spares: start.Spares, tmp_path: Path
) -> None:
    spares.keep()
    first, second = Job(tmp_path, "0", "wait"), Job(tmp_path, "3", "wait")
    assert is_forked(first)
    assert is_forked(second)
    assert first.pid != second.pid
    for job, code in ((first, 0), (second, 3)):
        assert job.said["argv"] == ["a_job", str(code), "wait"]
        assert (job.said["runs"], job.said["seen"]["SLOT"]) == (1, "7")
        assert job.said["group"] == job.pid
        assert psutil.Process(job.pid).name() == "a_job", "it is found by its module's name"
        assert job.process.wait(0) is None
        assert job.finish() == code
        assert job.process.wait(0) == code
        assert is_gone(job.pid)
    assert first.log.read_text() == "to the log\n" * 2


def test_a_lock_is_held_while_the_forked_process_lives(
    spares: start.Spares, tmp_path: Path
) -> None:
    spares.keep()
    held = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    job = Job(tmp_path, "0", "wait", keep=(held,))
    os.close(held)
    again = os.open(tmp_path / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert job.finish() == 0
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)


def test_killed_it_takes_what_it_started_with_it(spares: start.Spares, tmp_path: Path) -> None:
    spares.keep()
    job = Job(tmp_path, "0", "wait", "child")
    job.process.kill()
    assert job.process.wait(0) == -9
    wait_for(
        lambda: is_gone(job.pid) and is_gone(job.said["child"]),
        seconds=10,
        what="the process and its child to end",
    )
    os.close(job.requests)


def test_it_ends_with_the_one_that_asked_for_it(spares: start.Spares, tmp_path: Path) -> None:
    spares.keep()
    job = Job(tmp_path, "0", "wait")
    assert isinstance(job.process, start.Forked)
    job.process._connection.close()  # as the kernel does when the supervisor is killed
    wait_for(lambda: is_gone(job.pid), seconds=10, what="the process to end")
    os.close(job.requests)


def test_a_spare_that_dies_takes_its_processes_and_is_replaced(
    spares: start.Spares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spares.keep()
    job = Job(tmp_path, "0", "wait")
    assert spares._spare is not None
    spares._spare.kill()
    assert job.process.wait(20) == -9
    wait_for(lambda: is_gone(job.pid), seconds=10, what="the process to end")
    os.close(job.requests)

    monkeypatch.setattr(start, "PATIENCE_SECONDS", 0.2)
    fresh = Job(tmp_path, "4")
    assert not is_forked(fresh)
    assert fresh.finish() == 4

    monkeypatch.setattr(start, "PATIENCE_SECONDS", 20.0)
    spares.keep()
    forked = Job(tmp_path, "5")
    assert is_forked(forked)
    assert forked.finish() == 5


def test_a_spare_is_not_waited_for_until_the_lease_is_over(
    spares: start.Spares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "PATIENCE_SECONDS", 600.0)
    fresh = Job(tmp_path, "0", lease_seconds=1)  # no spare reads at the doorway
    assert not is_forked(fresh)
    assert fresh.finish() == 0


def test_where_an_import_has_started_cuda_nothing_is_forked(
    spares: start.Spares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfit = MAIN.format("spare.is_fit_to_fork = lambda: False")
    monkeypatch.setattr(start, "COMMAND", (sys.executable, "-c", unfit))
    monkeypatch.setattr(start, "PATIENCE_SECONDS", 1.0)
    spares.keep()
    fresh = Job(tmp_path, "0")
    assert not is_forked(fresh)
    assert fresh.finish() == 0


@pytest.mark.slow
def test_the_real_modules_leave_cuda_alone() -> None:
    """And nothing of theirs runs in a thread of Python's, which a fork would not have."""
    code = (
        "import importlib, threading; from worker import spare\n"
        "for module in spare.MODULES: importlib.import_module(module)\n"
        "assert spare.is_fit_to_fork() and threading.active_count() == 1, threading.enumerate()"
    )
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0
