"""A worker whose doorbell is silent finds its work, and one that is stuck ends."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import environ, python
from servers import Redis, missing, own_redis
from sqlalchemy.orm import Session, sessionmaker
from waiting import has_ended, wait_for

from jobs import ids
from jobs.db import transaction
from jobs.models import Job
from jobs.status import Status
from jobs.store import jobs, projects
from service.settings import ServiceSettings

# The worker's own entry, with a consumer's loop that never comes back once it is ready.
STUCK = """
import sys, time
from celery.signals import worker_ready
from worker import fallback
from worker.__main__ import main

fallback.TICK_SECONDS, fallback.STUCK_TICKS, fallback.RELEASE_SECONDS = 0.5, 3, 0.1

@worker_ready.connect
def hang(sender, **_):
    sender.timer.call_after(1.0, time.sleep, (600,))

sys.exit(main())
"""


QUICK = """
import sys
from worker import fallback
from worker.__main__ import main

fallback.RELEASE_SECONDS = 0.1
sys.exit(main())
"""


@pytest.fixture
def redis() -> Iterator[Redis]:
    server = own_redis()
    if server is None:
        missing("There is no Redis here: install it.")
    server.start()
    yield server
    server.remove()


def unrung_job(sessions: sessionmaker[Session], settings: ServiceSettings) -> str:
    """A job that nobody rings for. Too many validators never came back: the next look ends it."""
    job = Job(id=ids.new_id(ids.JOB), spec={}, model="m", training_file="file-a", seed=1)
    job.num_losses = settings.max_losses
    with transaction(sessions) as session:
        job.project_id = projects.ensure_project(session, "default").id
        jobs.add(session, job)
    return job.id


@pytest.mark.parametrize("broker", ["filesystem", "redis"])
def test_a_job_that_no_message_tells_of_is_found(
    request: pytest.FixtureRequest,
    broker: str,
    settings: ServiceSettings,
    sessions: sessionmaker[Session],
    tmp_path: Path,
) -> None:
    url = "filesystem://" if broker == "filesystem" else request.getfixturevalue("redis").url
    first, log = unrung_job(sessions, settings), tmp_path / "log"

    def is_over(job_id: str) -> bool:
        with sessions() as session:
            return session.get_one(Job, job_id).status == Status.FAILED

    given = {
        "data_dir": settings.data_dir,
        "database_url": settings.database_url,
        "broker_url": url,
        "poll_seconds": 0.5,
    }
    with python("worker", log=log, **given) as worker:
        wait_for(lambda: is_over(first), seconds=90, what="the first job to be found")
        second = unrung_job(sessions, settings)
        wait_for(lambda: is_over(second), seconds=60, what="the second job to be found")
        worker.terminate()
        assert worker.wait(40) == 0, log.read_text()


def test_a_worker_with_one_queue_ends_when_one_of_its_processes_is_killed(
    settings: ServiceSettings, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    given = environ(
        data_dir=settings.data_dir, database_url=settings.database_url, poll_seconds=0.5
    )
    first = unrung_job(sessions, settings)

    def is_over() -> bool:
        with sessions() as session:
            return session.get_one(Job, first).status == Status.FAILED

    log = tmp_path / "log"
    with (
        log.open("w") as lines,
        subprocess.Popen([sys.executable, "-c", QUICK], env=given, stderr=lines) as worker,
    ):
        try:
            wait_for(is_over, seconds=90, what="the job to be found")
            here = psutil.Process(worker.pid)
            pooled = [one for one in here.children() if one.cmdline() == here.cmdline()]
            assert len(pooled) == 2
            pooled[0].kill()
            assert worker.wait(60) == 1, log.read_text()
        finally:
            worker.kill()
    assert "a process of the pool was killed" in log.read_text()
    wait_for(lambda: all(map(has_ended, pooled)), seconds=20, what="the end of the others")


def test_a_worker_whose_consumer_hangs_ends(
    redis: Redis, settings: ServiceSettings, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK],
        env=environ(
            data_dir=settings.data_dir, database_url=settings.database_url, broker_url=redis.url
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "the consumer stands still though the broker answers" in done.stderr
