"""What both ends of the broker must agree on. A message only says that there may be work.

Losing every message, or getting each one three times, costs latency and nothing else: the
database is the queue of record. That is why a doorbell carries no job, expires soon, and is
acknowledged before anything is done.
"""

from __future__ import annotations

from typing import Any

from jobs.settings import Settings

TASK_NAME = "honed.drain"
QUEUE = "honed.doorbell"

# A ring nobody heard is rung again by the sweeper; older ones only pile up.
EXPIRES_SECONDS = 60


def celery_config(settings: Settings) -> dict[str, Any]:
    """The Celery configuration of every process that rings or answers. JSON only: pickle runs code.

    Creates the embedded broker's folders where the filesystem transport is used.
    """
    config: dict[str, Any] = {
        "broker_url": settings.broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_timeout": 2,
        "task_default_queue": QUEUE,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_hijack_root_logger": False,
        "enable_utc": True,
    }
    if settings.broker_url.startswith("filesystem://"):
        messages = settings.broker_dir / "messages"
        control = settings.broker_dir / "control"
        for folder in (messages, control):
            folder.mkdir(parents=True, exist_ok=True)
        config["broker_transport_options"] = {
            "data_folder_in": str(messages),
            "data_folder_out": str(messages),
            "control_folder": str(control),
            "store_processed": False,
            "polling_interval": 0.2,
        }
    else:
        config["broker_transport_options"] = {
            "socket_connect_timeout": 2,
            "socket_timeout": 5,
            "global_keyprefix": "honed:",
            "visibility_timeout": 3600,
        }
    return config
