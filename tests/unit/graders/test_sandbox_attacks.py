"""Every attack at every level: the right flag, no trace, and the next grade is right."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sandbox_attacks
from sandbox_attacks import ATTACKS, HARMLESS, Attack
from sandbox_levels import NAMES, at_level, graded, kind_of, python

from jobs.graders.python import Python

SECRET = "HONED_SECRET_FOR_TESTS"


@dataclass
class Host:
    """What attacks aim at, and whether they hit."""

    item: dict[str, Any]
    heard: list[str]

    def state(self) -> tuple[object, ...]:
        victim = os.stat(self.item["victim"])
        left = sorted(os.listdir(os.path.dirname(self.item["victim"])))
        return victim.st_ctime_ns, victim.st_mtime_ns, victim.st_size, victim.st_mode, left


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Open to everyone, as pytest's own are not: what keeps attacks out must be the sandbox."""
    with tempfile.TemporaryDirectory(prefix="honed-host-") as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[Host]:
    for name, mode in (("secret", 0o644), ("victim", 0o666)):
        (folder / name).write_text("secret")
        (folder / name).chmod(mode)
    heard: list[str] = []
    path = str(folder / "socket")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        unix.bind(path)
        unix.listen()
        for listener in (tcp, unix, udp):
            listener.settimeout(0.05)
        done = threading.Event()

        def listen() -> None:
            while not done.is_set():
                for listener in (tcp, unix, udp):
                    try:
                        if listener is udp:
                            udp.recvfrom(10)
                        else:
                            listener.accept()[0].close()
                        heard.append(str(listener))
                    except TimeoutError:
                        pass

        thread = threading.Thread(target=listen)
        thread.start()
        item = {
            "secret": str(folder / "secret"),
            "victim": str(folder / "victim"),
            "new": str(folder / "new"),
            "port": port,
            "socket": path,
            "pid": os.getpid(),
        }
        yield Host(item, heard)
        done.set()
        thread.join()


@pytest.fixture(scope="module", params=NAMES)
def grader(request: pytest.FixtureRequest) -> Iterator[Python]:
    with at_level(request.param), pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, "1")
        grader = python()
        grader.check()
        yield grader


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_costs_its_own_sample_only(grader: Python, attack: Attack, host: Host) -> None:
    before = host.state()
    assert graded(grader, "", label="label of another").reward == 0.25

    grade = graded(grader, attack.body, **host.item)

    became = HARMLESS if grade.reward == 0.25 else kind_of(grade)
    assert became in attack.becomes, grade
    assert grade.reward in (None, 0.25)
    assert (grade.error_detail or "").replace("\n", "").isprintable()
    assert len(grade.error_detail or "") < 4096
    assert graded(grader, "").reward == 0.25
    assert host.state() == before
    assert host.heard == []


CONTROL = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from sandbox_attacks import ATTACKS
item = json.loads(sys.argv[2])
failed = []
for attack in ATTACKS:
    if attack.succeeds_unsandboxed:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
                os.dup2(1, 2)
                exec(attack.body, {"item": item})
            except BaseException:
                os._exit(1)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            failed.append(attack.name)
print(json.dumps(failed))
"""


def test_the_attacks_are_real(host: Host) -> None:
    """Without a sandbox they get through: a test that nothing could fail would show nothing."""
    ran = subprocess.run(
        [sys.executable, "-c", CONTROL, str(Path(sandbox_attacks.__file__).parent),
         json.dumps(host.item)],
        env={**os.environ, SECRET: "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )  # fmt: skip
    host.heard.clear()
    assert json.loads(ran.stdout) == []
