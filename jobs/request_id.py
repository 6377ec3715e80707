"""Whose request a process works on: in every line of its log, and handed on to the next process."""

from __future__ import annotations

import logging
from contextvars import ContextVar

NO_REQUEST = "-"
REQUEST_ID_HEADER = "X-Request-Id"
LOG_FORMAT = "%(asctime)sZ %(levelname)s %(request_id)s %(name)s: %(message)s"

request_id: ContextVar[str] = ContextVar("request_id", default=NO_REQUEST)
"""The id of the request that this context answers; threads of endpoints inherit it."""


def with_request_id(record: logging.LogRecord) -> bool:
    """A filter that lets everything pass and gives `LOG_FORMAT` its `request_id`."""
    record.request_id = request_id.get()
    return True
