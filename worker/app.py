"""The Celery application of a worker: it answers doorbells and never touches a device itself."""

from __future__ import annotations

import mmap
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_process_init, worker_shutting_down

from jobs.db import check_schema, connect
from jobs.doorbell import celery_config
from jobs.settings import get_settings
from worker.process_tie import die_with_parent

app = Celery("honed", include=["worker.tasks"])
app.conf.update(celery_config(get_settings()))

# One byte shared with the pool's children: they are forked from here, and a shutdown must reach
# the attempts they supervise. Plain memory: no lock that a killed child could leave taken.
_stopping = mmap.mmap(-1, 1)


def is_stopping() -> bool:
    """Whether this worker has been asked to shut down."""
    return _stopping[0] != 0


@worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    _stopping[0] = 1


@worker_process_init.connect
def _end_with_the_worker(**_: Any) -> None:
    """A pool process that outlived a killed worker would go on renewing its job's lease."""
    die_with_parent()


@worker_init.connect
def _refuse_other_schema(**_: Any) -> None:
    engine = connect(get_settings().sqlalchemy_url)
    check_schema(engine)
    engine.dispose()
