"""One line a fact, with the time in UTC, on standard error."""

from __future__ import annotations

import logging
import time


def configure() -> None:
    """Set up this process's logging."""
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # At every start it would tell which database it looks at.
    logging.getLogger("alembic").setLevel(logging.WARNING)
