"""Whose request a process works on: in every line of its log, and handed on to the next process."""

from __future__ import annotations

from contextvars import ContextVar

NO_REQUEST = "-"
REQUEST_ID_HEADER = "X-Request-Id"
# How a process that works for one job hears of the request that made it.
REQUEST_ID_VARIABLE = "HONED_REQUEST_ID"

request_id: ContextVar[str] = ContextVar("request_id", default=NO_REQUEST)
"""The id of the request that this context answers; threads of endpoints inherit it."""
