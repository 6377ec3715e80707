"""A stack that a campaign may hurt: its processes by role, its database, its broker, its end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import psutil
import scaled
from celery import Celery
from servers import free_port, own_postgresql, own_redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from user import SAME_BYTES, User
from waiting import wait_for

from jobs.db import DATABASE_AWAY, connect
from jobs.doorbell import QUEUE, TASK_NAME, celery_config
from jobs.settings import Settings

# Longer than it takes to find out that a spare process does not answer.
LEASE_SECONDS = 7.0
PROGRESS_SECONDS = 20.0

# Short clocks, so that what takes minutes takes seconds; and more patience with one job than a
# poison job gets, for here it is always the machine that is at fault.
CLOCKS = {
    "HONED_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "HONED_RENEW_SECONDS": "0.5",
    "HONED_SWEEP_SECONDS": "0.5",
    "HONED_POLL_SECONDS": "5",
    "HONED_PROGRESS_SECONDS": f"{PROGRESS_SECONDS:g}",
    "HONED_MAX_LOSSES": "20",
}

MARK = "HONED_CHAOS"
# Files with the offsets of the wall clocks: of the stack's processes, and of their database's.
CLOCK, DATABASE_CLOCK = "clock", "clock.database"
SERVERS = ("postgres", "redis-server")


class Topology(ABC):
    """The processes of one stack carry a mark in their environment, however deep they are."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"{MARK}={folder}"
        self.user: User
        self.database_url: str
        self.broker_url = "filesystem://"

    @abstractmethod
    def start(self) -> None:
        """Bring everything up; it answers when this returns."""

    @abstractmethod
    def start_again(self) -> None:
        """What an operator does once everything was killed."""

    @abstractmethod
    def stop(self) -> None:
        """An orderly end."""

    def processes(self, *modules: str) -> list[psutil.Process]:
        """Those that run `python -m MODULE`, forked ones too; all of them without a name."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if self.mark.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes():
                    continue
                if process.status() == psutil.STATUS_ZOMBIE or process.name() in SERVERS:
                    continue
                if not modules or {*process.cmdline(), process.name()} & {*modules}:
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The main process of each Celery worker."""
        every = self.processes("worker")
        pids = {process.pid for process in every}
        return [process for process in every if process.ppid() not in pids]

    def pool(self) -> list[psutil.Process]:
        """The Celery workers' pool processes."""
        mains = {process.pid for process in self.workers()}
        return [process for process in self.processes("worker") if process.pid not in mains]

    def holder(self, job_id: str) -> psutil.Process | None:
        """The pool process that holds a job's lease, if it runs."""
        pid = self.lease_owner(job_id)
        with contextlib.suppress(psutil.NoSuchProcess):
            return None if pid is None else psutil.Process(pid)
        return None

    def lease_owner(self, job_id: str) -> int | None:
        """The process id under which a job's lease is held."""
        (row,) = self.rows("SELECT lease_owner FROM jobs WHERE id = :id", id=job_id)
        return int(row.lease_owner.split(":")[1]) if row.lease_owner else None

    def rows(self, query: str, **values: Any) -> list[Any]:
        """What the database says, as soon as it answers."""
        for _ in range(600):
            engine = connect(self.database_url)
            try:
                with engine.connect() as connection:
                    return list(connection.execute(text(query), values))
            except (*DATABASE_AWAY, SQLAlchemyError):
                time.sleep(0.1)
            finally:
                engine.dispose()
        raise AssertionError("the database did not answer for a minute")

    def ring(self, times: int) -> None:
        """More doorbells than anybody asked for."""
        app = Celery("chaos", set_as_current=False)
        app.conf.update(celery_config(Settings(data_dir=self.folder, broker_url=self.broker_url)))
        for _ in range(times):
            app.send_task(TASK_NAME, queue=QUEUE)
        app.close()

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def disks(self) -> dict[Path, int]:
        """Folders that are small file systems of their own, and their megabytes."""
        return {self.artifacts: 256}


class Embedded(Topology):
    """`honed up` on a folder and a port that stay the same."""

    name = "embedded"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.database_url = f"sqlite:///{folder / 'honed.db'}"
        self.port = free_port()

    @property
    def disks(self) -> dict[Path, int]:
        return {self.folder: 256, **super().disks}

    def start(self) -> None:
        self._up()
        self.user = User(self.port, self.folder / "key")

    def _up(self) -> None:
        arguments = ("up", "--data", str(self.folder), "--port", str(self.port))
        tether = ("service.tether", str(os.getpid()))
        with (self.folder.parent / "up.log").open("ab") as log:
            self.up = subprocess.Popen(
                [sys.executable, "-m", *tether, sys.executable, "-m", "service.cli", *arguments],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        log_text = self.folder.parent / "up.log"
        readies = log_text.read_text().count("ready ")

        def is_up() -> bool:
            assert self.up.poll() is None, f"`honed up` ended: {log_text.read_text()[-500:]}"
            return log_text.read_text().count("ready ") > readies

        wait_for(is_up, seconds=90, what="`honed up` to be ready")

    def start_again(self) -> None:
        self.up.wait(10)
        self._up()

    def stop(self) -> None:
        self.up.send_signal(signal.SIGTERM)
        self.up.wait(60)


class ScaledUp(Topology):
    """Servers, service, sweeper, two workers; a part that ends is started again, as by compose."""

    name = "scaled"
    WORKERS = ("first", "second")
    MODULES: ClassVar = {
        "service": "service.serve",
        "sweeper": "service.sweeper",
        "serving": "worker.serve",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._is_over = threading.Event()
        self._operator = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        postgresql, redis = own_postgresql(), own_redis()
        if postgresql is None or redis is None:
            sys.exit("The scaled topology needs the servers of PostgreSQL and Redis installed.")
        self.postgresql, self.redis = postgresql, redis
        clock = {"HONED_CHAOS_CLOCK": str(self.folder.parent / DATABASE_CLOCK)}
        postgresql.environ = {**os.environ, **clock}
        postgresql.start()
        redis.start()
        self.folder.mkdir(exist_ok=True)
        self.user = self.stack = scaled.Scaled(self.folder, postgresql, redis)
        self.stack.environ.update(CLOCKS)
        self.database_url = postgresql.url("honed")
        self.broker_url = redis.url
        wait_for(self.stack.is_ready, seconds=90, what="the service to be ready")
        for name in self.WORKERS:
            self.stack.start_worker(name)
        self.stack.start("serving", self.MODULES["serving"])
        self._operator.start()

    def _watch(self) -> None:
        while not self._is_over.wait(0.3):
            for name, process in list(self.stack.running.items()):
                if process.poll() is None:
                    continue
                environ = {} if name in self.MODULES else {"HONED_WORKER_NAME": name}
                self.stack.start(name, self.MODULES.get(name, "worker"), **environ)

    def start_again(self) -> None:
        wait_for(self.stack.is_ready, seconds=90, what="the service to be ready again")

    def stop(self) -> None:
        self._is_over.set()
        self._operator.join()
        self.stack.close()


TOPOLOGIES = {one.name: one for one in (Embedded, ScaledUp)}


def temporary_folder(folder: Path) -> Path:
    return folder.parent / "tmp"


def prepare(folder: Path, environ: dict[str, str]) -> None:
    """Set what every process of the stack inherits: this one starts them all."""
    for name in list(os.environ):
        if name.startswith(("HONED_", "OPENAI_")):
            del os.environ[name]
    os.environ.update({**SAME_BYTES, **CLOCKS, **environ})
    os.environ.update({MARK: str(folder), "HF_HOME": "/nonexistent"})
    # Of the stack alone, so that what it leaves behind is seen.
    temporary = temporary_folder(folder)
    temporary.mkdir()
    # Torch's cache is one a user, and stays.
    os.environ.update({"TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": f"{temporary}.torch"})
