"""The Celery application of a worker: it answers doorbells and never touches a device itself."""

from __future__ import annotations

import mmap
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_process_init, worker_ready, worker_shutting_down

from jobs import alive
from jobs.doorbell import celery_config
from jobs.log import configure
from jobs.settings import get_settings
from worker.fallback import Poller, Watchdog, end_with_killed
from worker.process_tie import die_with_parent
from worker.start import keep_spare

app = Celery("honed", include=["worker.tasks"])
app.conf.update(celery_config(get_settings()))

# One byte shared with the pool's children: they are forked from here, and a shutdown must reach
# the attempts they supervise. Plain memory: no lock that a killed child could leave taken.
_stopping = mmap.mmap(-1, 1)


def is_stopping() -> bool:
    """Whether this worker has been asked to shut down."""
    return _stopping[0] != 0


@setup_logging.connect
def _as_every_process(**_: Any) -> None:
    """Celery sets up no logging where somebody else has."""
    configure("worker", get_settings())


@worker_shutting_down.connect
def tell_children(**_: Any) -> None:
    """Ask the attempts of all pool processes to save their state and stop."""
    _stopping[0] = 1


@worker_process_init.connect
def _end_with_the_worker(**_: Any) -> None:
    """A pool process that outlived a killed worker would go on renewing its job's lease."""
    die_with_parent()


@worker_ready.connect
def _look_after_it(sender: Any, **_: Any) -> None:
    """Signs from the loop that reads the broker: a consumer that hangs gives none any more."""
    settings = get_settings()
    watchdog = Watchdog(app, tell_children)

    def beat() -> None:
        alive.beat(settings, "worker")
        watchdog.beat()
        keep_spare()

    beat()
    sender.timer.call_repeatedly(alive.BEAT_SECONDS, beat)
    poller = Poller(sender.pool, is_stopping)
    sender.timer.call_repeatedly(settings.poll_seconds, poller.poll)
    if sender.hub is not None:  # else the timer is a thread, which says nothing of the consumer
        watchdog.start()
    else:
        end_with_killed(sender.pool, tell_children)
