"""Child processes of `honed up`: restarted with patience, ended for sure."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import has_ended

from service import children
from service.children import Child, Command, stop_all
from service.lock import Held, hold_alone, hold_with_children

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
# A child whose own child outlives it.
PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make_child(tmp_path: Path, said: list[str]) -> Iterator[Callable[[str], Child]]:
    """Starts children that run Python code; ends them after the test."""
    made: list[Child] = []
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)

    def make(code: str) -> Child:
        child = Child(
            command=Command("child", (sys.executable, "-c", code)),
            environ=os.environ,
            log=tmp_path / f"child-{len(made)}.log",
            lock_descriptor=descriptor,
            say=said.append,
        )
        made.append(child)
        return child

    yield make
    children.STOP_SECONDS, kept = 0.0, children.STOP_SECONDS
    stop_all(made)
    children.STOP_SECONDS = kept
    os.close(descriptor)


def started(child: Child) -> str:
    """Start it; its output once it has some."""
    child.watch()
    return str(wait_for(lambda: child.log.exists() and child.log.read_text()))


def test_term_ends_it(make_child: Callable[[str], Child], said: list[str]) -> None:
    child = make_child(SLEEP)
    assert started(child) == "up\n"
    stop_all([child])
    assert said == []


def test_one_that_ignores_term_is_killed(
    make_child: Callable[[str], Child], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "STOP_SECONDS", 0.3)
    child = make_child(STUBBORN)
    started(child)
    stop_all([child])
    assert said == ["child does not end by itself; it is killed."]


def test_its_own_children_end_with_it(make_child: Callable[[str], Child]) -> None:
    child = make_child(PARENT)
    grandchild = psutil.Process(int(started(child)))
    assert grandchild.is_running()
    stop_all([child])
    wait_for(lambda: has_ended(grandchild))


def test_one_that_ends_starts_again_later_and_later(
    make_child: Callable[[str], Child], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "BACKOFF_SECONDS", (0.1, 0.2))
    child = make_child("print('up', flush=True); raise SystemExit(3)")

    def has_said(count: int) -> bool:
        child.watch()
        return len(said) >= count

    wait_for(lambda: has_said(3))
    delays = ["0.1", "0.2", "0.2"]
    for line, delay in zip(said, delays, strict=False):
        assert line.startswith(f"child ended (exit code 3); it starts again in {delay} s.")
        assert str(child.log) in line
    assert child.log.read_text().startswith("up\nup\nup\n")


def test_a_killed_one_is_said_by_its_signal(
    make_child: Callable[[str], Child], said: list[str]
) -> None:
    child = make_child("import os; os.kill(os.getpid(), 9)")
    child.watch()

    def has_said() -> bool:
        child.watch()
        return bool(said)

    wait_for(has_said)
    assert "signal SIGKILL" in said[0]


def test_a_large_log_is_put_aside(
    make_child: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "MAX_LOG_BYTES", 10)
    child = make_child(SLEEP)
    child.log.write_text("x" * 11)
    child.watch()
    assert child.log.with_suffix(".log.1").read_text() == "x" * 11


@pytest.mark.skipif(sys.platform != "linux", reason="the tie is the Linux kernel's")
def test_a_tethered_process_ends_with_its_parent(tmp_path: Path) -> None:
    parent = (
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, '-c', {SLEEP!r}]\n"
        "tether = [sys.executable, '-m', 'service.tether', str(os.getpid())]\n"
        "child = subprocess.Popen([*tether, *command], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        assert "time.sleep" in " ".join(child.cmdline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: has_ended(child))


def test_a_tether_whose_parent_is_gone_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.tether", "1", sys.executable, "-c", "print('up')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "the parent ended" in done.stderr


class TestLocks:
    def test_one_holder(self, tmp_path: Path) -> None:
        with (
            hold_alone(tmp_path / "lock", tmp_path),
            pytest.raises(Held, match="Another `honed up` runs on"),
            hold_alone(tmp_path / "lock", tmp_path),
        ):
            pass
        with hold_alone(tmp_path / "lock", tmp_path):
            pass

    def test_leftovers_are_waited_for(self, tmp_path: Path) -> None:
        lock, said = tmp_path / "lock", []
        with hold_with_children(lock, said.append) as holding:
            leftover = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(2)"],
                pass_fds=(holding.descriptor,),
            )
        with hold_with_children(lock, said.append):
            assert leftover.wait(5) == 0
        assert said == ["waiting for processes of an earlier run to end"]

    def test_stubborn_leftovers_are_killed_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.lock.LEFTOVER_SECONDS", 0.2)
        lock, said = tmp_path / "lock", []
        sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
        with hold_with_children(lock, said.append) as holding:
            leftover = subprocess.Popen(sleep, pass_fds=(holding.descriptor,))
        bystander = subprocess.Popen(sleep)
        try:
            with hold_with_children(lock, said.append):
                pass
            assert leftover.wait(5) == -signal.SIGKILL
            assert bystander.poll() is None
            assert f"killing process {leftover.pid} of an earlier run" in said
        finally:
            bystander.kill()
            bystander.wait()
