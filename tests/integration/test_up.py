"""`honed up`, for real: one command, one folder, and nothing left behind."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environ, python
from servers import free_port
from stacks import stack
from waiting import has_ended, wait_for

from jobs.db import connect, session_factory, transaction
from jobs.models import Job
from jobs.store import jobs, projects


def run_up(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", "up", "--data", str(folder), *options],
        capture_output=True,
        text=True,
        env=environ(),
        timeout=60,
        check=False,
    )


def test_the_whole_stack_comes_up_and_goes_down(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    whole = (sys.executable, "-m", "service.cli", "up", "--data", str(folder), "--port", "{port}")
    with stack(folder, *whole) as running:
        assert running.lines[-1].startswith(f"ready http://127.0.0.1:{running.port} ")
        assert str(folder / "key") in running.lines[-1]
        assert (folder / "key").stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        assert running.answers()
        assert running.child("worker") is not None
        # A doorbell that somebody answers does not stay in the broker's folder.
        messages = folder / "broker" / "messages"
        wait_for(lambda: not list(messages.iterdir()), seconds=20, what="an answered doorbell")
        running.stop()
    assert {log.name for log in (folder / "logs").glob("*.log")} == {
        "service.log",
        "sweeper.log",
        "worker.log",
    }


def test_a_child_that_dies_is_restarted_and_a_second_up_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with stack(folder) as running:
        key = (folder / "key").read_text()
        second = run_up(folder, "--port", str(free_port()))
        assert second.returncode == 1
        assert second.stderr.startswith(f"Another `honed up` runs on {folder}")

        service = running.child("service.serve")
        assert service is not None
        service.send_signal(signal.SIGKILL)
        service.wait(5)
        wait_for(running.answers, seconds=30, what="the service to come back")
        restarted = running.child("service.serve")
        assert restarted is not None
        assert restarted.pid != service.pid
        running.stop()
        assert running.process.stdout is not None
        rest = running.process.stdout.read()
        assert "service ended (signal SIGKILL); it starts again in 0.5 s" in rest

    with stack(folder) as again:
        assert (folder / "key").read_text() == key
        assert again.answers()
        again.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="the tie is the Linux kernel's")
def test_a_killed_up_takes_its_children_and_the_next_one_starts(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with stack(folder) as running:
        children = running.children()
        assert len(children) == 2
        running.process.kill()
        running.process.wait()
        with stack(folder) as again:
            wait_for(lambda: all(map(has_ended, children)), seconds=20, what="the children's end")
            assert again.answers()
            again.stop()


def test_a_port_in_use_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_up(tmp_path / "data", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"Port {port} on 127.0.0.1 is in use by another program: choose one with --port.\n"
    )


def test_no_other_address_than_loopback_without_a_key(tmp_path: Path) -> None:
    done = run_up(tmp_path / "data", "--port", str(free_port()), "--host", "0.0.0.0")
    assert done.returncode == 1
    assert done.stderr.startswith("Refusing to listen on 0.0.0.0: no API key exists yet.")


def test_an_address_of_nobody_is_a_sentence(tmp_path: Path) -> None:
    done = run_up(tmp_path / "data", "--port", str(free_port()), "--host", "203.0.113.1")
    assert done.returncode == 1
    assert done.stderr.startswith("Cannot listen on 203.0.113.1 port ")


def test_a_setting_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    done = run_up(tmp_path / "data", "--port", "70000")
    assert done.returncode == 1
    assert done.stderr == "Setting 'port' is 70000: Input should be less than or equal to 65535.\n"


def test_a_sweeper_rings_and_ends_at_once_when_told(tmp_path: Path, database_url: str) -> None:
    folder = tmp_path / "data"
    engine = connect(database_url)
    with transaction(session_factory(engine)) as session:
        project = projects.ensure_project(session, "default")
        job = Job(
            id="ftjob-a", project_id=project.id, spec={}, model="m", training_file="f", seed=1
        )
        jobs.add(session, job)
    engine.dispose()
    messages, log = folder / "broker" / "messages", tmp_path / "log"
    with python("service.sweeper", log=log, data_dir=folder, sweep_seconds=300) as sweeper:
        wait_for(lambda: list(messages.glob("*.msg")), seconds=30, what="a ring")
        sweeper.terminate()
        assert sweeper.wait(30) == 0
