"""How a process that serves HTTP ends when it is told to: in order, in time, with exit code 0."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading


def end_on_term() -> None:
    """Have SIGTERM end this process well. Called in the main thread, before the server starts.

    uvicorn answers what is open, ends its application and then raises the signal again, for this
    handler. A request may still wait for somebody else then, for a slow judge's answer or for a
    model that loads: its client has been cut off, and Python would wait for its thread.
    """
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: object) -> None:
    if all(one.daemon or one is threading.main_thread() for one in threading.enumerate()):
        sys.exit(0)
    logging.shutdown()
    os._exit(0)
