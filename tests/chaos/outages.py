"""Faults of what the processes stand on: broker, database, disk, bytes and clock."""

import contextlib
import shutil
import signal
import sqlite3
import struct
import subprocess
import time
from pathlib import Path

import psycopg
from faults import ANYWHERE, Fault, Target, kill_pool_process, kill_serving, kill_trainer, send
from sqlalchemy import make_url
from topology import LEASE_SECONDS, ScaledUp, Topology


def stop_broker(target: Target) -> None:
    """Redis ends and comes back; without it, the folder of messages is not there."""
    topology, seconds = target.topology, target.random.uniform(2, 6)
    if isinstance(topology, ScaledUp):
        topology.redis.stop()
        time.sleep(seconds)
        topology.redis.start()
        return
    broker, away = topology.folder / "broker", topology.folder / "broker.away"
    broker.rename(away)
    time.sleep(seconds)
    shutil.rmtree(broker, ignore_errors=True)
    away.rename(broker)


def flush_broker(target: Target) -> None:
    """Every message of the next seconds is forgotten."""
    end = time.monotonic() + target.random.uniform(1, 3)
    while time.monotonic() < end:
        if isinstance(target.topology, ScaledUp):
            target.topology.redis.flush()
        else:
            for message in (target.topology.folder / "broker" / "messages").iterdir():
                message.unlink(missing_ok=True)
        time.sleep(0.05)


def duplicate_messages(target: Target) -> None:
    """A message names no job, so one more of them is the same one again."""
    target.topology.ring(target.random.randint(3, 12))


def lock_database(target: Target) -> None:
    """A writer that holds everybody up, once for longer than they wait for a lock."""
    topology, seconds = target.topology, target.random.choice([3.0, 17.0])
    if isinstance(topology, ScaledUp):
        with psycopg.connect(_plain(topology)) as connection:
            connection.execute("LOCK TABLE jobs IN EXCLUSIVE MODE")
            time.sleep(min(seconds, 8.0))
        return
    with contextlib.closing(
        sqlite3.connect(topology.folder / "honed.db", timeout=60, isolation_level=None)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def stop_database(target: Target) -> None:
    assert isinstance(target.topology, ScaledUp)
    target.topology.postgresql.stop()
    time.sleep(target.random.choice([1.0, LEASE_SECONDS + 2]))
    target.topology.postgresql.start()


def cut_connections(target: Target) -> None:
    """Each connection again and again, whatever transaction it is in."""
    assert isinstance(target.topology, ScaledUp)
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = 'honed' AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(_plain(target.topology), autocommit=True) as connection:
        end = time.monotonic() + target.random.uniform(0.5, 2)
        while time.monotonic() < end:
            connection.execute(query)
            time.sleep(0.02)


def _plain(topology: ScaledUp) -> str:
    url = make_url(topology.database_url).set(drivername="postgresql")
    return url.render_as_string(hide_password=False)


def corrupt_checkpoint(target: Target) -> None:
    """The trainer dies, and before another begins the newest state is cut short or overwritten."""
    holder = target.topology.holder(target.job_id)
    send([holder] if holder else [], signal.SIGSTOP)
    kill_trainer(target)
    time.sleep(0.2)
    newest = target.topology.rows(
        "SELECT folder FROM checkpoints JOIN jobs ON jobs.id = job_id WHERE job_id = :id "
        "AND has_state AND status = 'running' ORDER BY checkpoints.step DESC LIMIT 1",
        id=target.job_id,
    )
    for row in newest:
        state = target.topology.artifacts / row.folder / "state"
        for path in sorted(state.glob("*.safetensors"))[:1]:
            with path.open("r+b") as file:
                if target.random.random() < 0.5:
                    file.truncate(path.stat().st_size // 2)
                else:
                    file.seek(path.stat().st_size // 2)
                    file.write(b"\xff\x00\xff")
    send([holder] if holder else [], signal.SIGCONT)


def fill_disk(target: Target) -> None:
    """The folder of artifacts is a file system of its own, and full for some seconds."""
    filler = target.topology.artifacts / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        time.sleep(target.random.uniform(1, 4))
    finally:
        filler.unlink()


def jump_clock(target: Target) -> None:
    """Forward or back by some minutes, for every process at once; it stays there."""
    Clock(target.topology.folder.parent).move(target.random.choice([-7200, -120, 120, 7200]))


def lose_worker_and_set_back_clock(target: Target) -> None:
    """What was to come within seconds by the old clock is hours away by the new one."""
    kill_pool_process(target)
    time.sleep(target.random.choice([0.0, LEASE_SECONDS + 2]))
    Clock(target.topology.folder.parent).move(-7200)


class Clock:
    """The wall clock of every process of the stack, where a C compiler can build its library."""

    def __init__(self, folder: Path) -> None:
        self.library = folder / "clock.so"
        self.offset = folder / "clock"

    def build(self) -> bool:
        self.offset.write_bytes(struct.pack("q", 0))
        compiler = shutil.which("cc")
        if compiler is None:
            return False
        source = Path(__file__).with_name("clock.c")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(self.library), str(source)]
        return subprocess.run([*command, "-ldl"], check=False).returncode == 0

    def environ(self) -> dict[str, str]:
        """What a process needs to go by it."""
        return {"LD_PRELOAD": str(self.library), "HONED_CHAOS_CLOCK": str(self.offset)}

    def move(self, seconds: int) -> None:
        with self.offset.open("r+b") as file:
            (offset,) = struct.unpack("q", file.read())
            file.seek(0)
            file.write(struct.pack("q", offset + seconds))


class Disk:
    """A small file system for the artifacts, where this user may mount one."""

    def __init__(self, topology: Topology) -> None:
        self._folder = topology.artifacts

    def mount(self) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.parent.chmod(0o700)
        command = ["mount", "-t", "tmpfs", "-o", "size=256m", "chaos", str(self._folder)]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self._folder)], check=False)


def faults_of(topology: type[Topology], *, has_disk: bool, has_clock: bool) -> list[Fault]:
    """Every kind of fault that can be done to a stack here."""
    common: list[Fault] = [
        *ANYWHERE,
        stop_broker,
        flush_broker,
        duplicate_messages,
        lock_database,
        corrupt_checkpoint,
    ]
    own = [stop_database, cut_connections] if topology is ScaledUp else [kill_serving]
    clock = [jump_clock, lose_worker_and_set_back_clock] if has_clock else []
    return [*common, *own, *([fill_disk] if has_disk else []), *clock]
