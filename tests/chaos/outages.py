"""Faults of what the processes talk through: broker and database, away, emptied or held up."""

import contextlib
import shutil
import sqlite3
import threading
import time

import psycopg
from faults import Target
from sqlalchemy import make_url
from topology import LEASE_SECONDS, ScaledUp, Topology

from jobs.doorbell import QUEUE

A_MINUTE = 60.0
REDIS_KEY = f"honed:{QUEUE}"


def stop_broker(target: Target) -> None:
    """Redis ends and comes back; without it, the folder of messages is not there."""
    _stop_broker(target.topology, target.random.uniform(2, 6))


def stop_broker_for_a_minute(target: Target) -> None:
    _stop_broker(target.topology, A_MINUTE)


def _stop_broker(topology: Topology, seconds: float) -> None:
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


def reorder_messages(target: Target) -> None:
    """Those that wait stand in another order, the oldest behind the newest."""
    target.topology.ring(target.random.randint(3, 12))
    topology = target.topology
    if isinstance(topology, ScaledUp):
        topology.redis.reorder(REDIS_KEY, target.random.shuffle)
        return
    waiting = sorted((topology.folder / "broker" / "messages").iterdir())
    names = [path.name for path in waiting]
    target.random.shuffle(names)
    for path in waiting:
        with contextlib.suppress(FileNotFoundError):  # heard meanwhile
            path.rename(path.with_name(f".{path.name}"))
    for path, name in zip(waiting, names, strict=True):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(f".{path.name}").rename(path.with_name(name))


def lock_database(target: Target) -> None:
    """A writer that holds everybody up, once for longer than they wait for a lock."""
    topology, seconds = target.topology, target.random.choice([3.0, 17.0])
    if isinstance(topology, ScaledUp):
        with psycopg.connect(_plain(topology)) as connection:
            connection.execute("LOCK TABLE jobs IN EXCLUSIVE MODE")
            time.sleep(min(seconds, 8.0))
        return
    _lock_sqlite(topology, seconds)


def lock_database_for_a_minute(target: Target) -> None:
    """As if a file's database were stopped: nobody can write to it."""
    _lock_sqlite(target.topology, A_MINUTE)


def contend_for_database(target: Target) -> None:
    """Writers without a pause: whoever else wants to write is told SQLITE_BUSY, or waits long."""
    end = time.monotonic() + target.random.uniform(4, 10)

    def write() -> None:
        while time.monotonic() < end:
            _lock_sqlite(target.topology, 0.3)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()


def _lock_sqlite(topology: Topology, seconds: float) -> None:
    with contextlib.closing(
        sqlite3.connect(topology.folder / "honed.db", timeout=60, isolation_level=None)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def stop_database(target: Target) -> None:
    _stop_database(target.topology, target.random.choice([1.0, LEASE_SECONDS + 2]))


def stop_database_for_a_minute(target: Target) -> None:
    _stop_database(target.topology, A_MINUTE)


def _stop_database(topology: Topology, seconds: float) -> None:
    assert isinstance(topology, ScaledUp)
    topology.postgresql.stop()
    time.sleep(seconds)
    topology.postgresql.start()


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
