"""How sandboxes end: killed, closed, or with the process that started them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from sandbox_levels import (
    NAMES,
    at_level,
    cpu_seconds,
    graded,
    kill,
    kind_of,
    processes_of,
    python,
    sandbox_of,
    spare_of,
    wait_until,
)
from waiting import has_ended

from jobs.graders.sandbox import pools


@pytest.fixture(scope="module", params=NAMES)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with at_level(request.param):
        yield request.param


def body(source: str) -> str:
    return f"def grade(sample, item):\n    {source}\n"


def test_a_killed_sandbox_costs_one_sample_and_the_spare_goes_on(level: str) -> None:
    grader = python(body("while item['hang']: pass\n    return 1"), cpu_seconds=60, wall_seconds=60)
    assert graded(grader, "", hang=False).reward == 1.0
    wait_until(lambda: spare_of(grader) is not None)
    spare = spare_of(grader)
    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(graded, grader, "", hang=True)
        first = sandbox_of(grader)
        before = cpu_seconds(psutil.Process(first.pid))
        wait_until(lambda: cpu_seconds(psutil.Process(first.pid)) > before + 0.2)
        for process in processes_of(first):
            kill(process)
        assert kind_of(lost.result(30)) == "sandbox_lost"
    assert graded(grader, "", hang=False).reward == 1.0
    assert sandbox_of(grader) is spare


def test_a_closed_pool_leaves_no_process(level: str) -> None:
    grader = python(body("return 1"))
    assert graded(grader, "").reward == 1.0
    processes = processes_of(sandbox_of(grader))
    pools.close_all()
    wait_until(lambda: all(map(has_ended, processes)))


SERVICE = """
import sys, threading
sys.path[:0] = sys.argv[2:]
from sandbox_levels import at_level, graded, python, sandbox_of
with at_level(sys.argv[1]):
    grader = python("def grade(s, i):\\n    while True: pass\\n", cpu_seconds=60, wall_seconds=60)
    grader.check()
    print(sandbox_of(grader).pid, flush=True)
    graded(grader, "")
"""


def test_a_killed_service_takes_its_sandboxes_along(level: str) -> None:
    here = os.path.dirname(__file__)
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE, level, here], stdout=subprocess.PIPE, text=True
    )
    assert service.stdout is not None
    pid = int(service.stdout.readline())
    parent = psutil.Process(pid)
    before = cpu_seconds(parent)
    wait_until(lambda: cpu_seconds(parent) > before + 0.2)
    processes = [parent, *parent.children(recursive=True)]
    service.kill()
    service.wait()
    service.stdout.close()
    # The kernel ends them with the service: no limit of the loop, 60 s here, may be what does.
    wait_until(lambda: all(map(has_ended, processes)), seconds=20.0)
