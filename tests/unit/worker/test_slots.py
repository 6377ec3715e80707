"""A device is given to one at a time, also across processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.slots import free_slot


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("cpu_only")
def test_a_cpu_machine_has_one_slot(tmp_path: Path) -> None:
    with free_slot(tmp_path) as first, free_slot(tmp_path) as second:
        assert first is not None
        assert first.gpu is None
        assert second is None
    with free_slot(tmp_path) as again:
        assert again is not None


def test_one_slot_a_visible_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with free_slot(tmp_path) as a, free_slot(tmp_path) as b, free_slot(tmp_path) as c:
        assert a is not None
        assert b is not None
        assert (a.gpu, b.gpu, c) == ("2", "5", None)


@pytest.mark.usefixtures("cpu_only")
def test_the_slot_stays_taken_while_a_child_lives(tmp_path: Path) -> None:
    with free_slot(tmp_path) as slot:
        assert slot is not None
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            pass_fds=(slot.lock_fd,),
        )
    with free_slot(tmp_path) as taken:
        assert taken is None
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(10) == 0
    with free_slot(tmp_path) as free:
        assert free is not None
        os.fstat(free.lock_fd)
