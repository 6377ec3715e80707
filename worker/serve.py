"""`python -m worker.serve`: answers chat from base models and adapters, beside the trainers.

By default it listens on loopback, on a port of the kernel's choice, and writes down in the data
folder where that is and the token without which nobody is answered.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys

import torch
import uvicorn

from jobs.artifacts import ArtifactStore
from jobs.db import connect, session_factory
from jobs.devices import Device
from jobs.log import configure, refuse
from jobs.serving import Address, write_address
from jobs.settings import Settings
from jobs.store import fitting, jobs
from worker.serving import memory
from worker.serving.app import Serving, create_app
from worker.serving.engine import Engine
from worker.serving.hosting import Hosting
from worker.serving.local_models import LocalModels

# Below the trainer: whoever waits for an answer can wait a little, a job's hours add up.
NICENESS = 10


def main() -> int:
    """Serve until a signal; 1 with a sentence when the address cannot be used."""
    settings = Settings()
    configure("serving", settings)
    try:
        listener = _listener(settings)
    except (OSError, ValueError) as error:
        refuse(f"HONED_SERVING_LISTEN={settings.serving_listen}: {error}", settings)
        return 1
    os.nice(NICENESS)
    # Half of the cores: the trainer's threads wait for each other, and one that is held up holds
    # up all of them.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    engine = connect(settings.sqlalchemy_url)
    sessions = session_factory(engine)

    def has_jobs() -> bool:
        with sessions() as session:
            return jobs.is_any_active(session)

    def job_bytes() -> int:
        device = Device(memory.device_type(), memory.total_bytes())
        with sessions() as session:
            return fitting.largest(session, device)

    hosting = Hosting(settings, has_jobs=has_jobs, job_bytes=job_bytes)
    batching = Engine()
    serving = Serving(
        token=settings.serving_token or secrets.token_urlsafe(32),
        hosting=hosting,
        engine=batching,
        artifacts=ArtifactStore(settings.artifacts_dir),
        models=LocalModels(settings, hosting, batching),
    )
    host, port = listener.getsockname()[:2]
    write_address(settings, Address(f"http://{host}:{port}", serving.token))
    config = uvicorn.Config(
        create_app(serving), access_log=False, log_config=None, timeout_graceful_shutdown=5
    )
    uvicorn.Server(config).run(sockets=[listener])
    engine.dispose()
    return 0


def _listener(settings: Settings) -> socket.socket:
    host, _, port = settings.serving_listen.rpartition(":")
    if not host.startswith("127.") and not settings.serving_token:
        raise ValueError("another host than loopback needs HONED_SERVING_TOKEN")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    # From here on whoever reads the address can connect, and waits for the rest of the start.
    listener.listen()
    return listener


if __name__ == "__main__":
    sys.exit(main())
