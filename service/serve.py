"""Serves HTTP: `python -m service.serve`, with its address from HONED_HOST and HONED_PORT."""

from __future__ import annotations

import logging
import sys

import uvicorn

from jobs.errors import NoIsolation
from jobs.graders.sandbox.isolation import isolation
from jobs.log import configure, refuse
from service.app import create_app
from service.settings import ServiceSettings
from service.startup import address_fault, schema_fault

log = logging.getLogger(__name__)


def main() -> int:
    """Serve until a signal; 1 when the database or the address forbids it."""
    settings = ServiceSettings()
    configure("service", settings)
    fault = schema_fault(settings) or address_fault(settings)
    if fault:
        refuse(fault, settings)
        return 1
    _say_how_python_is_isolated()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=10,
    )
    return 0


def _say_how_python_is_isolated() -> None:
    """At every start, so that an operator who did without is told again."""
    try:
        found = isolation()
    except NoIsolation as refusal:
        log.warning("%s", refusal)
    else:
        log.info("python graders are isolated by %s: %s", found.level, found.reason)


if __name__ == "__main__":
    sys.exit(main())
