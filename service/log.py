"""One line a fact, with the time in UTC and the request it belongs to, on standard error."""

from __future__ import annotations

import logging
import time
from typing import TextIO

from jobs.request_id import LOG_FORMAT, with_request_id


def configure() -> None:
    """Set up this process's logging."""
    logging.basicConfig(level=logging.INFO, handlers=[handler()], force=True)
    # At every start it would tell which database it looks at.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def handler() -> logging.StreamHandler[TextIO]:
    """Writes every line with its time, level, request and origin."""
    formatter = logging.Formatter(LOG_FORMAT)
    formatter.converter = time.gmtime
    lines = logging.StreamHandler()
    lines.setFormatter(formatter)
    lines.addFilter(with_request_id)
    return lines
