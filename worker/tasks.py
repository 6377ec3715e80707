"""The one task: a doorbell rang, so do whatever waits."""

from __future__ import annotations

from celery import Task

from jobs.doorbell import TASK_NAME
from jobs.request_id import NO_REQUEST, REQUEST_ID_HEADER, request_id
from jobs.settings import get_settings
from worker.app import app, is_stopping
from worker.supervise import Supervisor


@app.task(name=TASK_NAME, bind=True)
def drain(self: Task) -> None:
    """Validate and run until nothing waits that this worker can take."""
    request_id.set((self.request.headers or {}).get(REQUEST_ID_HEADER, NO_REQUEST))
    Supervisor(get_settings(), is_stopping=is_stopping).drain()
