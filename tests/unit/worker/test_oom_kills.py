"""Deaths by the kernel's out-of-memory killer are told from others by its counts."""

from pathlib import Path

import pytest

from jobs.status import Phase, Reason
from worker import oom_kills
from worker.evidence import Evidence
from worker.oom_kills import OomKills

SIGKILL = -9

# As three kernels lay it out: the cgroups of this process, and the file that counts for them.
VERSION_2 = ("0::/user.slice/worker", "sys/fs/cgroup/user.slice/worker/memory.events")
VERSION_1 = (
    "7:cpu:/\n4:memory:/docker/abc\n0::/",
    "sys/fs/cgroup/memory/docker/abc/memory.oom_control",
)
IN_A_CONTAINER = ("4:memory:/docker/abc", "sys/fs/cgroup/memory/memory.oom_control")
BOTH = ("0::/app", "sys/fs/cgroup/unified/app/memory.events")
NO_CGROUP = ("", "proc/vmstat")
LAYOUTS = {
    "version 2": VERSION_2,
    "version 1": VERSION_1,
    "in a container": IN_A_CONTAINER,
    "both": BOTH,
    "no cgroup": NO_CGROUP,
}


def machine(root: Path, layout: tuple[str, str]) -> Path:
    """A machine's folders; the file with its count, 3."""
    cgroups, path = layout
    (root / "proc").mkdir()
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text(f"{cgroups}\n" if cgroups else "")
    (root / "proc/vmstat").write_text("pgfault 9\noom_kill 7\n")
    counter = root / path
    counter.parent.mkdir(parents=True, exist_ok=True)
    write_count(counter, 3)
    return counter


def write_count(counter: Path, count: int) -> None:
    counter.write_text(f"oom 0\noom_kill_disable 0\noom_kill {count}\noom_group_kill 0\n")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_kill_raises_the_count_wherever_a_kernel_keeps_it(
    tmp_path: Path, layout: tuple[str, str]
) -> None:
    counter = machine(tmp_path, layout)
    kills = OomKills(tmp_path)
    assert not kills.have_risen()
    write_count(counter, 4)
    assert kills.have_risen()


def test_a_kill_of_another_cgroup_is_none_of_this_one(tmp_path: Path) -> None:
    machine(tmp_path, VERSION_2)
    kills = OomKills(tmp_path)
    (tmp_path / "proc/vmstat").write_text("oom_kill 8\n")
    assert not kills.have_risen()


def test_a_kill_of_long_ago_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = machine(tmp_path, VERSION_2)
    monkeypatch.setattr(oom_kills, "WINDOW_SECONDS", -1.0)  # all is long ago
    kills = OomKills(tmp_path)
    write_count(counter, 4)
    for _ in range(3):
        kills.look()
    assert not kills.have_risen()


def test_a_machine_that_tells_nothing_has_killed_nobody(tmp_path: Path) -> None:
    assert not OomKills(tmp_path).have_risen()


def test_a_trainer_that_was_killed_for_memory_is_told_from_one_that_was_killed(
    tmp_path: Path,
) -> None:
    counter = machine(tmp_path, VERSION_2)
    evidence = Evidence(OomKills(tmp_path))
    said = {"phase": Phase.SAMPLING, "done": 1, "total": 2, "peak_bytes": 3_210_000_000}
    assert evidence.hear(said) == {"phase": Phase.SAMPLING, "done": 1, "total": 2}

    killed = evidence.crash(SIGKILL, "no output")
    assert killed.reason is Reason.TRAINER_CRASHED
    assert killed.message == (
        "The trainer process was killed by SIGKILL while sampling, with 3.2 GB at its peak."
    )
    assert killed.data == {"ended": "SIGKILL", "phase": "sampling", "peak_bytes": 3_210_000_000}

    write_count(counter, 4)
    out_of_memory = evidence.crash(SIGKILL, "no output")
    assert out_of_memory.reason is Reason.OUT_OF_MEMORY
    assert "out-of-memory killer ended the trainer process while sampling" in out_of_memory.message

    crashed = evidence.crash(1, "RuntimeError: no")
    assert crashed.reason is Reason.TRAINER_CRASHED
    assert crashed.message == (
        "The trainer process exited with code 1 while sampling, with 3.2 GB at its peak: "
        "RuntimeError: no."
    )
