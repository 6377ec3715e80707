"""A machine whose devices are all busy still says which waiting jobs fit none of them."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobs import ids
from jobs.db import transaction
from jobs.models import Event, Job
from jobs.store import jobs, projects, validation
from service.settings import ServiceSettings
from worker.slots import free_slot
from worker.supervise import Supervisor

pytestmark = pytest.mark.on_both_databases


def test_a_job_that_does_not_fit_a_busy_machine_says_so_at_once(
    settings: ServiceSettings, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    job = Job(id=ids.new_id(ids.JOB), spec={}, model="m", training_file="file-a", seed=1)
    with transaction(sessions) as session:
        job.project_id = projects.ensure_project(session, "default").id
        jobs.add(session, job)
        validation.admit(session, job.id, resolved={}, memory_cpu_bytes=9 * 10**9)

    busy = settings.model_copy(update={"device_memory_gb": 4.0, "worker_name": "busy"})
    with free_slot(busy.slots_dir) as slot:
        assert slot is not None
        Supervisor(busy, is_stopping=lambda: False).drain()

    with sessions() as session:
        waits = session.get_one(Job, job.id).turned_away
        newest = session.scalars(select(Event).order_by(Event.seq.desc())).first()
    assert waits == {
        "cpu": {"needed_bytes": 9 * 10**9, "device_bytes": 4 * 10**9, "worker": "busy"}
    }
    assert newest is not None
    assert "of worker busy, has 4.0 GB" in newest.message
