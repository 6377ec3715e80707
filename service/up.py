"""`honed up`: the whole embedded stack on one machine, from one data folder.

It migrates the database, makes the first key, starts service, sweeper and worker, and at its first
use the serving process; it restarts the one that dies, and takes all of them with it when it ends,
however it ends.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs import serving
from jobs.artifacts import open_store
from jobs.db import connect, session_factory, transaction
from jobs.schema import migrate
from jobs.scopes import Scope
from jobs.store import projects
from service.children import Child, Command, stop_all
from service.lock import hold_alone, hold_with_children
from service.pulse import Pulse
from service.settings import ServiceSettings
from service.signals import StopSignal
from service.startup import address_fault

READY_SECONDS = 60.0
POLL_SECONDS = 0.2


class CannotStart(Exception):
    """Why the stack does not come up; the message says what to do."""


def commands(settings: ServiceSettings) -> tuple[Command, ...]:
    """The children of a whole stack."""
    python = sys.executable
    return (
        Command("service", (python, "-m", "service.serve")),
        Command("sweeper", (python, "-m", "service.sweeper")),
        Command("worker", (python, "-m", "worker")),
        Command("serving", (python, "-m", "worker.serve"), wanted=serving.wanted_path(settings)),
    )


def up(
    settings: ServiceSettings,
    say: Callable[[str], None],
    children_of: Callable[[ServiceSettings], Sequence[Command]] = commands,
) -> None:
    """Run the stack until a signal. Raises CannotStart.

    Once requests are answered it says a line that begins with `ready `.
    """
    stop = StopSignal()
    settings.data_dir.parent.mkdir(parents=True, exist_ok=True)
    settings.data_dir.mkdir(mode=0o700, exist_ok=True)
    for folder in (settings.run_dir, settings.logs_dir):
        folder.mkdir(exist_ok=True)
    with (
        hold_alone(settings.run_dir / "up.lock", settings.data_dir),
        hold_with_children(settings.run_dir / "children.lock", say) as holding,
    ):
        _check_port(settings)
        # Whoever held a job of this folder has ended: else the lock would not be had.
        migrate(settings.sqlalchemy_url, ended=settings.worker_name)
        open_store(settings).clear_scratch()
        serving.forget(settings)
        fault = address_fault(settings)
        if fault:
            raise CannotStart(fault)
        key = first_key(settings)
        children = [
            Child(
                command=command,
                environ=_environ(settings),
                log=settings.logs_dir / f"{command.name}.log",
                lock_descriptor=holding.descriptor,
                say=say,
            )
            for command in children_of(settings)
        ]
        try:
            _watch(settings, children, stop, say=say, key=key)
        finally:
            say("stopping")
            stop_all(children)


def _watch(
    settings: ServiceSettings,
    children: Sequence[Child],
    stop: StopSignal,
    *,
    say: Callable[[str], None],
    key: str,
) -> None:
    # Elsewhere it is for its own supervisor to watch.
    pulses = [
        Pulse(settings, child)
        for child in children
        if child.command.wanted is not None and not settings.serving_url
    ]
    is_ready, give_up_at = False, time.monotonic() + READY_SECONDS
    while True:
        for child in children:
            child.watch()
        for pulse in pulses:
            pulse.watch()
        if not is_ready and _is_ready(settings):
            is_ready = True
            say(f"ready {settings.own_url}  ({key}; logs: {settings.logs_dir})")
        if not is_ready and time.monotonic() > give_up_at:
            raise CannotStart(
                f"The service did not become ready within {READY_SECONDS:g} seconds; "
                f"see {settings.logs_dir / 'service.log'}."
            )
        if stop.wait(POLL_SECONDS):
            return


def _is_ready(settings: ServiceSettings) -> bool:
    try:
        with urllib.request.urlopen(f"{settings.own_url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _environ(settings: ServiceSettings) -> dict[str, str]:
    """What the children read their settings from: this process's, and what its options changed."""
    return {
        **os.environ,
        "HONED_DATA_DIR": str(settings.data_dir),
        "HONED_HOST": settings.host,
        "HONED_PORT": str(settings.port),
        "HONED_UNSAFE_PYTHON_GRADERS": str(settings.unsafe_python_graders),
        "PYTHONUNBUFFERED": "1",
    }


def _check_port(settings: ServiceSettings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does: a port that lingers from an earlier run is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CannotStart(
                    f"Port {settings.port} on {settings.host} is in use by another program: "
                    "choose one with --port."
                ) from None
            raise CannotStart(
                f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}."
            ) from None


def first_key(settings: ServiceSettings) -> str:
    """Make project and key when there is none; a phrase that says where the key is."""
    path = settings.data_dir / "key"
    engine = connect(settings.sqlalchemy_url)
    try:
        with transaction(session_factory(engine)) as session:
            if not projects.has_live_key(session):
                project = projects.ensure_project(session, "default")
                # The file first: a key in the database that nobody knows cannot be got back.
                key = projects.issue_key(session, project, "first key", scopes=(Scope.PRIORITY,))
                _write_private(path, key.secret)
    finally:
        engine.dispose()
    if path.exists():
        return f"API key: {path}"
    return "API keys exist; `honed keys create` makes another"


def _write_private(path: Path, secret: str) -> None:
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
