"""The scaled topology as processes: PostgreSQL, Redis, service, sweeper, workers on one folder."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from celery import Celery
from servers import PostgreSQL, Redis, free_port, missing, own_postgresql, own_redis
from sqlalchemy import text
from user import SAME_BYTES, User
from waiting import wait_for

from jobs.db import connect
from jobs.doorbell import QUEUE, TASK_NAME, celery_config
from jobs.settings import Settings

# Short leases, so that lost attempts are seen soon.
CLOCKS = {"HONED_LEASE_SECONDS": "4", "HONED_SWEEP_SECONDS": "0.5"}


class Scaled(User):
    """Each part can be stopped by itself; workers are added by name."""

    def __init__(self, folder: Path, postgresql: PostgreSQL, redis: Redis, **environ: str) -> None:
        self.folder = folder
        self.postgresql = postgresql
        self.redis = redis
        port = free_port()
        self.environ = {
            **os.environ,
            **SAME_BYTES,
            **CLOCKS,
            "HONED_DATA_DIR": str(folder),
            "HONED_DATABASE_URL": postgresql.url("honed"),
            "HONED_BROKER_URL": redis.url,
            "HONED_PORT": str(port),
            "PYTHONUNBUFFERED": "1",
            **environ,
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._make_database()
        self._once("service.cli", "migrate", "--first-key")
        super().__init__(port, folder / "key")
        self.start("service", "service.serve")
        self.start("sweeper", "service.sweeper")

    def _make_database(self) -> None:
        engine = connect(self.postgresql.url())
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CREATE DATABASE honed"))
        engine.dispose()

    def _once(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", *arguments], env=self.environ, check=True)

    def data_dir(self, name: str) -> Path:
        """The data folder of a part: here, all parts have one."""
        return self.folder

    def start(self, name: str, module: str, **environ: str) -> None:
        """A part of the stack, which ends when the tests do."""
        environ["HONED_DATA_DIR"] = str(self.data_dir(name))
        tether = ("service.tether", str(os.getpid()), sys.executable, "-m", module)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *tether],
                env={**self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def start_worker(self, name: str) -> None:
        """A worker, and its answer that it is ready."""
        sign = self.data_dir(name) / "run" / "alive" / f"worker.{name}"
        sign.unlink(missing_ok=True)
        self.start(name, "worker", HONED_WORKER_NAME=name)
        wait_for(sign.exists, seconds=60, what=f"worker {name} to be ready")

    def processes(self, name: str) -> list[psutil.Process]:
        """A part's process and all that it started."""
        parent = psutil.Process(self.running[name].pid)
        return [parent, *parent.children(recursive=True)]

    def running_module(self, name: str, module: str) -> list[psutil.Process]:
        """Those of a part's processes that run `python -m module`, forked ones too."""
        found = []
        for process in self.processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was listed
                if module in process.cmdline() or process.name() == module:
                    found.append(process)
        return found

    def kill(self, name: str) -> None:
        """kill -9 of a part with everything it started, as a machine that loses its power."""
        for process in self.processes(name):
            process.kill()
        self.running.pop(name).wait()

    def stop(self, name: str) -> int:
        """Its exit code after SIGTERM, to its main process alone; it leaves nobody."""
        processes = self.processes(name)
        process = self.running.pop(name)
        process.terminate()
        code = process.wait(40)
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert alive == [], "left behind after SIGTERM"
        return code

    def replace(self, name: str, module: str) -> None:
        """An update of a part: the old one ends, a new one starts."""
        assert self.stop(name) == 0, f"{name} did not end in order"
        self.start(name, module)

    def stop_group(self, name: str) -> None:
        """SIGTERM to each process of a part; all end within the 60 s that compose gives them."""
        processes = self.processes(name)
        os.killpg(processes[0].pid, signal.SIGTERM)
        self.running.pop(name).wait(60)
        _, alive = psutil.wait_procs(processes, timeout=5)
        assert alive == [], "left behind after SIGTERM"

    def holder(self, job_id: str) -> str:
        """The name of the worker that holds a job."""
        engine = connect(self.postgresql.url("honed"))
        with engine.connect() as connection:
            query = text("SELECT lease_owner FROM jobs WHERE id = :id")
            owner = connection.scalar(query, {"id": job_id})
        engine.dispose()
        return (owner or "").split(":")[0]

    def ring(self, times: int) -> None:
        """More doorbells than anybody asked for."""
        settings = Settings(data_dir=self.folder, broker_url=self.redis.url)
        app = Celery("test", set_as_current=False)
        app.conf.update(celery_config(settings))
        for _ in range(times):
            app.send_task(TASK_NAME, queue=QUEUE)
        app.close()

    def close(self) -> None:
        """Stop every part, then the servers. Nothing may be left behind."""
        left = [process for name in self.running for process in self.processes(name)]
        for name in list(self.running):
            self.stop(name)
        self.client.close()
        _, alive = psutil.wait_procs(left, timeout=5)
        for process in alive:
            process.kill()
        self.postgresql.remove()
        self.redis.remove()
        assert alive == [], "left behind after SIGTERM"


def own_servers() -> tuple[PostgreSQL, Redis]:
    """A database server and a broker, started."""
    postgresql, redis = own_postgresql(), own_redis()
    if postgresql is None or redis is None:
        missing("The scaled topology needs the servers of PostgreSQL and Redis installed here.")
    postgresql.start()
    redis.start()
    return postgresql, redis


def start(folder: Path) -> Scaled:
    """A stack with servers of its own and no worker yet; it answers when this returns."""
    stack = Scaled(folder, *own_servers())
    wait_for(stack.is_ready, seconds=60, what="the service to be ready")
    return stack
