"""Rings the doorbell: tells the workers, through the broker, that there may be work."""

from __future__ import annotations

import logging
import os

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError

from jobs.doorbell import EXPIRES_SECONDS, QUEUE, TASK_NAME, celery_config
from jobs.request_id import REQUEST_ID_HEADER, request_id
from jobs.settings import Settings

logger = logging.getLogger(__name__)

# What a broker that is away raises. The filesystem broker adds two: a folder that cannot be
# written (OSError) and its routing file read while another process writes it (ValueError).
BROKER_ERRORS = (OperationalError, ChannelError, OSError, ValueError)


class Doorbell:
    """The sending side of the broker. A ring that fails costs latency only: the sweeper repeats it.

    Rung after the commit, never before: a worker that answers must find the row.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = Celery("honed", set_as_current=False)
        self._app.conf.update(celery_config(settings))

    def ring(self) -> bool:
        """Send one message; False, and a line in the log, when the broker does not take it."""
        try:
            self._app.send_task(
                TASK_NAME,
                queue=QUEUE,
                expires=EXPIRES_SECONDS,
                retry=False,
                headers={REQUEST_ID_HEADER: request_id.get()},
            )
        except BROKER_ERRORS as error:
            logger.warning("the broker did not take a doorbell, the sweeper rings again: %s", error)
            return False
        return True

    def fault(self) -> str | None:
        """Why the broker cannot be reached, or None when it can."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        except BROKER_ERRORS as error:
            return str(error)
        folder = self._app.conf.broker_transport_options.get("data_folder_out")
        if folder is not None and not os.access(folder, os.W_OK):
            return f"the broker's folder {folder} cannot be written"
        return None

    def close(self) -> None:
        """Close the pooled connections."""
        self._app.close()
