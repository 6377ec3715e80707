"""`python -m worker`: a Celery worker with a process for each slot and one that is always free."""

from __future__ import annotations

from jobs.devices import num_slots
from jobs.doorbell import QUEUE
from worker.app import app


def main() -> None:
    # A slot's process is busy for as long as a job runs; the extra one validates new jobs' files.
    app.worker_main(
        [
            "worker",
            "--pool=prefork",
            f"--concurrency={num_slots() + 1}",
            f"--queues={QUEUE}",
            "--loglevel=info",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )


if __name__ == "__main__":
    main()
