"""Jobs whose trainer is a script of the test's, under a real supervisor."""

import contextlib
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs import ids
from jobs.db import transaction
from jobs.models import Job
from jobs.store import events, jobs, projects, validation
from service.settings import ServiceSettings
from worker import trainer_process
from worker.supervise import Supervisor

Sessions = sessionmaker[Session]

# A supervisor of its own process: the script is its trainer.
SUPERVISOR = """
import sys
from jobs.settings import Settings
from worker import trainer_process
from worker.supervise import Supervisor

trainer_process.COMMAND = (sys.executable, sys.argv[1])
Supervisor(Settings(), is_stopping=lambda: False).drain()
"""


@dataclass(frozen=True)
class Script:
    """Makes a script the trainer process: it gets job and attempt, and the two pipes."""

    monkeypatch: pytest.MonkeyPatch
    folder: Path

    def __call__(self, source: str) -> None:
        command = (sys.executable, str(self.write(source)))
        self.monkeypatch.setattr(trainer_process, "COMMAND", command)

    def write(self, source: str) -> Path:
        script = self.folder / "trainer.py"
        script.write_text("import json, os, signal, sys, time\n" + textwrap.dedent(source))
        return script


def quick(settings: ServiceSettings) -> ServiceSettings:
    return settings.model_copy(update={"renew_seconds": 0.1, "lease_seconds": 5.0})


def unvalidated_job(sessions: Sessions, **columns: Any) -> str:
    """A job whose files wait for validation."""
    with transaction(sessions) as session:
        project = projects.ensure_project(session, "default")
        job = Job(
            id=ids.new_id(ids.JOB),
            project_id=project.id,
            spec={"suffix": None},
            model="honed/starter",
            training_file="file-a",
            seed=1,
            **columns,
        )
        jobs.add(session, job)
    return job.id


def queued_job(sessions: Sessions, resolved: Any = None, **columns: Any) -> str:
    """A job that waits for a worker."""
    job_id = unvalidated_job(sessions, **columns)
    with transaction(sessions) as session:
        validation.admit(session, job_id, resolved=resolved or {})
    return job_id


def drain(settings: ServiceSettings, *, is_stopping: Callable[[], bool] = lambda: False) -> None:
    Supervisor(settings, is_stopping=is_stopping).drain()


def row(sessions: Sessions, job_id: str) -> Job:
    with sessions() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job


def messages(sessions: Sessions, job_id: str) -> list[str]:
    with sessions() as session:
        found = events.list_page(session, job_id, after_seq=None, limit=50, newest_first=False)
        return [event.message for event in found.rows]


def make_claimable(sessions: Sessions, job_id: str) -> None:
    """Skip the back-off of a lost attempt."""
    with transaction(sessions) as session:
        session.get_one(Job, job_id).claimable_at = 0.0


def no_trainer_is_left() -> bool:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was listed
            if "trainer.py" in " ".join(child.cmdline()):
                return False
    return True
