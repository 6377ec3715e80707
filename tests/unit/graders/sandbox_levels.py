"""Pools at one chosen level of isolation, and the verdicts that they give."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from jobs.errors import NoIsolation
from jobs.graders import Grade, Sample
from jobs.graders.python import Python
from jobs.graders.sandbox import isolation, pools
from jobs.graders.sandbox.process import LEVELS, Sandbox

NAMES = [level.name for level in LEVELS]
RUNS_COMPLETIONS = """
def grade(sample, item):
    names = {"item": item}
    exec(sample["output_text"], names)
    return names.get("reward", 0.25)
"""


@contextmanager
def at_level(name: str) -> Iterator[None]:
    """Only this level is tried while it lasts; a machine without it skips, or fails in CI."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "LEVELS", tuple(one for one in LEVELS if one.name == name))
        isolation.forget()
        try:
            require_isolation()
            yield
        finally:
            pools.close_all()
            isolation.forget()


def require_isolation() -> None:
    try:
        isolation.isolation()
    except NoIsolation as refusal:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(refusal))


def python(source: str = RUNS_COMPLETIONS, **fields: object) -> Python:
    limits = {"cpu_seconds": 0.4, "wall_seconds": 4.0, "memory_mb": 256}
    # Some scripts of tests are processes of their own, where nobody is asking yet.
    with pools.on_behalf_of(pools.current_tenant() or "tests"):
        return Python.model_validate({"type": "python", "source": source, **limits, **fields})


def kind_of(grade: Grade) -> str:
    """The error's flag, or the type of a server error; empty for a reward."""
    (flag,) = grade.errors or ("",)
    return grade.details[flag] if flag == "python_grader_server_error" else flag


def graded(grader: Python, text: str, **item: object) -> Grade:
    return grader.grade(Sample(text), item)


def wait_until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def sandbox_of(grader: Python) -> Sandbox:
    with pools.borrowed(grader._tenant, grader._program) as held:
        assert held._active is not None
        return held._active


def spare_of(grader: Python) -> Sandbox | None:
    with pools.borrowed(grader._tenant, grader._program) as held:
        return held._spare


def processes_of(sandbox: Sandbox) -> list[psutil.Process]:
    parent = psutil.Process(sandbox.pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(sandbox: psutil.Process) -> float:
    """Of all its processes; those that end meanwhile count for nothing."""
    used = 0.0
    for process in [sandbox, *sandbox.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used += process.cpu_times().user
    return used


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):  # what it was in was killed before it
        process.kill()
