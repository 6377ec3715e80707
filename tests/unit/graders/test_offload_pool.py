"""The worker processes of graders: deadlines, deaths, and what they cannot see."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.graders.offload import cage
from jobs.graders.offload.pool import Offload, OffloadFailed, OffloadTimeout
from jobs.graders.offload.records import MAX_REPLY_BYTES, REPLY, Status

ROOT = Path(__file__).parents[3]

needs_cage = pytest.mark.skipif(
    not cage.is_caged() and not os.environ.get("CI"), reason="bubblewrap is not to be had here"
)


def _below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Offload]:
    """Processes that import a module of the test's own, which does what no grader does."""
    (tmp_path / "probes").mkdir()
    (tmp_path / "secret").touch()
    (tmp_path / "probes" / "probe.py").write_text(
        "import gc, json, os, socket, sys, time\n"
        "from jobs.graders.offload.records import Outcome\n"
        "def run(*, what, **more):\n"
        "    if what == 'spin':\n"
        "        return sum(range(10**12))\n"
        "    if what == 'die':\n"
        "        os._exit(3)\n"
        "    if what == 'hog':\n"
        "        return len(bytearray(64 * 1024**3))\n"
        "    if what == 'print':\n"
        "        print('{}'); os.write(1, b'{}'); os.write(2, b'{}')\n"
        "    if what == 'look':\n"
        "        seen = [os.path.exists(p) for p in more['paths']] + sorted(os.environ)\n"
        "        return Outcome(note=json.dumps(seen))\n"
        "    if what == 'call':\n"
        "        socket.create_connection(('127.0.0.1', more['port']), 1)\n"
        "    if what == 'patch':\n"
        "        sys.modules[__name__].run = lambda **more: Outcome(-1.0)\n"
        "        os.getppid = lambda: -1\n"
        "    if what == 'search':\n"
        "        held = [one for one in gc.get_objects() if isinstance(one, (dict, list, tuple))]\n"
        "        parts = [one.values() if type(one) is dict else one for one in held]\n"
        "        texts = [str(v) for part in parts for v in part if type(v) in (str, bytes)]\n"
        "        for fd in range(5, 256):\n"
        "            try:\n"
        "                os.set_blocking(fd, False)\n"
        "                texts.append(str(os.read(fd, 1 << 20)))\n"
        "            except OSError: pass\n"
        "        return Outcome(sum(more['reversed'] in text[::-1] for text in texts))\n"
        "    if what == 'linger':\n"
        "        pid = os.fork()\n"
        "    if what == 'reply':\n"
        "        os.write(4, more['bytes'].encode('latin-1'))\n"
        "        time.sleep(60)\n"
        "    return Outcome(os.getppid())\n"
    )
    environment, bubblewrap = cage.environment(), cage._bubblewrap()
    path = f"{tmp_path}:{environment['PYTHONPATH']}"
    monkeypatch.setattr(cage, "environment", lambda: {**environment, "PYTHONPATH": path})
    bind = ["--ro-bind", str(tmp_path / "probes"), str(tmp_path / "probes")]
    monkeypatch.setattr(cage, "_bubblewrap", lambda: [*bubblewrap, *bind])
    offload = Offload(1)
    monkeypatch.setattr(offload, "package", "probes")
    yield offload
    offload.close()


def test_a_call_that_raises_says_what_and_keeps_its_process(probes: Offload) -> None:
    first = probes.call("probe", seconds=5, what="pid").score
    with pytest.raises(OffloadFailed, match="ModuleNotFoundError"):
        probes.call("no_such_module", seconds=5)
    with pytest.raises(OffloadFailed, match="PermissionError"):
        probes.call("probe", seconds=5, what="linger")
    assert probes.call("probe", seconds=5, what="pid").score == first


@pytest.mark.parametrize(
    ("what", "words"), [("spin", "longer than 0.3"), ("die", "died"), ("hog", "MemoryError")]
)
def test_a_call_that_spins_dies_or_hogs_costs_itself_alone(
    probes: Offload, what: str, words: str
) -> None:
    with pytest.raises((OffloadTimeout, OffloadFailed), match=words):
        probes.call("probe", seconds=0.3 if what == "spin" else 20, what=what)
    assert probes.call("probe", seconds=5, what="pid").score > 0


def test_what_a_library_prints_is_not_taken_for_a_reply(probes: Offload) -> None:
    assert probes.call("probe", seconds=5, what="print").score > 0


def test_what_a_call_does_to_its_process_is_gone_before_the_next(probes: Offload) -> None:
    warm = probes.call("probe", seconds=5, what="pid").score
    assert probes.call("probe", seconds=5, what="patch").score == -1.0
    assert probes.call("probe", seconds=5, what="pid").score == warm


def test_a_call_finds_no_other_rows_labels(probes: Offload) -> None:
    """Not among its objects, nor its descriptors, nor in the memory that it is a copy of."""
    label = "label-that-one-row-has"
    found = probes.call("probe", seconds=9, what="search", label=[label], reversed=label[::-1])
    assert found.score > 0  # its own: the search finds what is there
    assert probes.call("probe", seconds=9, what="search", reversed=label[::-1]).score == 0
    (running,) = probes._running
    for process in [psutil.Process(running._process.pid), *_below(running._process.pid)]:
        assert label.encode() not in memory_of(process.pid)


def memory_of(pid: int) -> bytes:
    """All that a process can write, of those that this one may look into."""
    parts = []
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                first, last = (int(part, 16) for part in line.split()[0].split("-"))
                if line.split()[1].startswith("rw"):
                    memory.seek(first)
                    parts.append(memory.read(last - first))
    except PermissionError:  # not root, and the process hides from its equals
        return b""
    return b"".join(parts)


@pytest.mark.parametrize(
    "forged",
    [
        REPLY.pack(0, Status.SCORED, 1.0, 0),  # not the nonce of this request
        REPLY.pack(0, Status.SCORED, 1.0, 0) * 2,
        b"x",
        b"x" * (MAX_REPLY_BYTES + 1),
    ],
)
def test_a_reply_that_is_not_one_to_the_request_counts_for_nothing(
    probes: Offload, forged: bytes
) -> None:
    with pytest.raises(OffloadTimeout, match="died"):
        probes.call("probe", seconds=5, what="reply", bytes=forged.decode("latin-1"))
    assert probes.call("probe", seconds=5, what="pid").score > 0


def test_a_child_that_reads_nothing_costs_its_deadline(probes: Offload) -> None:
    """A request larger than the pipes hold, to a process that is stopped."""
    probes.call("probe", seconds=5, what="pid")
    (running,) = probes._running
    for process in [psutil.Process(running._process.pid), *_below(running._process.pid)]:
        process.suspend()
    with pytest.raises(OffloadTimeout, match=r"longer than 0\.5"):
        probes.call("probe", seconds=0.5, what="x" * 1_000_000)
    assert probes.call("probe", seconds=5, what="pid").score > 0


def test_a_caller_does_not_wait_for_ever_for_a_free_process(
    probes: Offload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.graders.offload.pool.QUEUE_SECONDS", 0.2)
    held = probes._places("probe").get()
    with pytest.raises(OffloadTimeout, match="no process was free"):
        probes.call("probe", seconds=5, what="pid")
    probes._places("probe").put(held)
    assert probes.call("probe", seconds=5, what="pid").score > 0


def test_modules_share_no_process(probes: Offload, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probes.call("probe", seconds=5, what="pid").score
    monkeypatch.setattr(probes, "package", "jobs.graders.offload")
    assert probes.call("schema", seconds=5, schema={}, is_check=True).problem == ""
    assert len(probes._running) == 2
    monkeypatch.setattr(probes, "package", "probes")
    assert probes.call("probe", seconds=5, what="pid").score == probe


def test_a_closed_pool_refuses_calls(probes: Offload) -> None:
    probes.call("probe", seconds=5, what="pid")
    probes.close()
    probes.close()
    with pytest.raises(OffloadTimeout, match=r"ending|could not be started"):
        probes.call("probe", seconds=5, what="pid")


@needs_cage
def test_the_process_sees_no_files_no_environment_and_no_network(
    probes: Offload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    paths = [str(tmp_path / "secret"), "/etc/shadow", "/etc/passwd", str(ROOT / "pyproject.toml")]
    found = json.loads(probes.call("probe", seconds=5, what="look", paths=paths).note)
    assert found[:4] == [False, False, False, False]
    assert "JUDGE_KEY" not in found[4:]
    with pytest.raises(OffloadFailed, match="PermissionError"):
        probes.call("probe", seconds=5, what="call", port=5432)


@needs_cage
def test_what_is_readable_may_be_installed_below_tmp(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "module").write_text("installed here")
    everything = [*cage.readable(), str(tmp_path)]
    monkeypatch.setattr(cage, "readable", lambda: everything)
    command = [*cage._bubblewrap(), "cat", str(tmp_path / "module")]
    assert subprocess.check_output(command, text=True) == "installed here"


def test_threads_share_the_processes(probes: Offload) -> None:
    results: list[float] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(probes.call("probe", seconds=9, what="pid").score)
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert len(set(results)) == 1


def test_processes_die_with_their_parent(tmp_path: Path) -> None:
    """Killed without a chance to clean up, and while a child is busy in C code."""
    script = (
        "import threading, time\n"
        "from jobs.graders.offload.pool import Offload\n"
        "offload = Offload(1)\n"
        "offload.call('equivalence', seconds=30, text='$1$', reference='1')\n"
        "print('ready', flush=True)\n"
        "offload.call('equivalence', seconds=60, text='$9^{9^{9^{9}}}$',"
        " reference='$9^{9^{9^{8}}}$')\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
