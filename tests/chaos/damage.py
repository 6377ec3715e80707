"""Faults of what the processes stand on: the disk, the bytes on it, and the clock."""

import contextlib
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

from faults import Target, kill_pool_process, send
from topology import CLOCK, DATABASE_CLOCK, LEASE_SECONDS, ScaledUp


def corrupt_checkpoint(target: Target) -> None:
    """The trainer dies, and before another begins the newest state is cut short or overwritten."""
    holder = target.topology.holder(target.job_id)
    send([holder] if holder else [], signal.SIGSTOP)
    trainers = target.trainers()
    send(trainers, signal.SIGKILL)
    time.sleep(0.2)
    newest = target.topology.rows(
        "SELECT checkpoints.id, folder, jobs.attempt FROM checkpoints JOIN jobs ON jobs.id = job_id"
        " WHERE job_id = :id AND has_state AND status = 'running'"
        " ORDER BY checkpoints.step DESC LIMIT 1",
        id=target.job_id,
    )
    for row in newest if trainers else []:
        state = target.topology.artifacts / row.folder / "state"
        for path in sorted(state.glob("*.safetensors"))[:1]:
            target.damaged[row.id] = row.attempt
            with path.open("r+b") as file:
                if target.random.random() < 0.5:
                    file.truncate(path.stat().st_size // 2)
                else:
                    file.seek(path.stat().st_size // 2)
                    file.write(b"\xff\x00\xff")
    send([holder] if holder else [], signal.SIGCONT)


def fill_disk(target: Target) -> None:
    """No room for checkpoints, uploads and result files, for some seconds."""
    _fill(target.topology.artifacts, target.random.uniform(1, 4))


def fill_database_disk(target: Target) -> None:
    """No room for what else there is: the database with its WAL and samples, messages, logs."""
    _fill(target.topology.folder, target.random.uniform(1, 4))


def _fill(folder: Path, seconds: float) -> None:
    filler = folder / "filler"
    end = time.monotonic() + seconds
    try:
        with filler.open("wb", buffering=0) as file:
            while time.monotonic() < end:
                for size in (1 << 20, 1 << 12, 1):  # and what others free meanwhile, too
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(size))
                time.sleep(0.05)
    finally:
        filler.unlink()


def jump_clock(target: Target) -> None:
    """Forward or back by some minutes, for every process at once; it stays there.

    The database's machine goes with the others, or has a clock of its own.
    """
    root, seconds = target.topology.folder.parent, target.random.choice([-7200, -120, 120, 7200])
    Clock(root, CLOCK).move(seconds)
    if target.random.random() < 0.5:
        Clock(root, DATABASE_CLOCK).move(seconds)


def jump_database_clock(target: Target) -> None:
    """Alone: every lease and every wait is by this one."""
    assert isinstance(target.topology, ScaledUp)
    seconds = target.random.choice([-7200, -120, 120, 7200])
    Clock(target.topology.folder.parent, DATABASE_CLOCK).move(seconds)


def lose_worker_and_set_back_clock(target: Target) -> None:
    """What was to come within seconds by the old clock is hours away by the new one."""
    kill_pool_process(target)
    time.sleep(target.random.choice([0.0, LEASE_SECONDS + 2]))
    for name in (CLOCK, DATABASE_CLOCK):
        Clock(target.topology.folder.parent, name).move(-7200)


class Clock:
    """The wall clock of some processes of the stack: an offset in a file that each of them maps."""

    def __init__(self, root: Path, name: str) -> None:
        self._offset = root / name

    def begin(self) -> None:
        self._offset.write_bytes(struct.pack("q", 0))

    def move(self, seconds: int) -> None:
        with self._offset.open("r+b") as file:
            (offset,) = struct.unpack("q", file.read())
            file.seek(0)
            file.write(struct.pack("q", offset + seconds))


def built_clock(root: Path) -> dict[str, str]:
    """What a process needs to go by a clock of ours; nothing where no C compiler is."""
    for name in (CLOCK, DATABASE_CLOCK):
        Clock(root, name).begin()
    compiler, library = shutil.which("cc"), root / "clock.so"
    if compiler is None:
        return {}
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library)]
    built = subprocess.run(
        [*command, str(Path(__file__).with_name("clock.c")), "-ldl"], check=False
    )
    if built.returncode != 0:
        return {}
    return {"LD_PRELOAD": str(library), "HONED_CHAOS_CLOCK": str(root / CLOCK)}


class Disk:
    """A small file system on a folder, where this user may mount one."""

    def __init__(self, folder: Path, *, megabytes: int) -> None:
        self._folder = folder
        self._size = f"size={megabytes}m"

    def mount(self) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"{self._size},mode=0700", "chaos"]
        try:
            done = subprocess.run([*command, str(self._folder)], capture_output=True, check=False)
        except OSError:
            return False
        return done.returncode == 0

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self._folder)], check=False)
