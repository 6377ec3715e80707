"""The one task: a doorbell rang, so do whatever waits."""

from __future__ import annotations

from jobs.doorbell import TASK_NAME
from jobs.settings import get_settings
from worker.app import app, is_stopping
from worker.supervise import Supervisor


@app.task(name=TASK_NAME)
def drain() -> None:
    """Validate and run until nothing waits that this worker can take."""
    Supervisor(get_settings(), is_stopping=is_stopping).drain()
