"""A device is given to one at a time, also across processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs import devices
from jobs.devices import DevicesUnknown, device_of, num_slots, visible_gpus
from jobs.store.attempts import Claim
from worker import trainer_process
from worker.slots import free_slot
from worker.trainer_process import TrainerProcess


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("cpu_only")
def test_a_cpu_machine_has_one_slot(tmp_path: Path) -> None:
    with free_slot(tmp_path) as first, free_slot(tmp_path) as second:
        assert first is not None
        assert first.gpu is None
        assert first.device.kind == "cpu"
        assert first.device.memory_bytes
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


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a script of that name first in the PATH; what an earlier one said is forgotten."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(script: str) -> None:
        devices._nvidia_smi.cache_clear()
        tool = folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)

    yield write
    devices._nvidia_smi.cache_clear()


def test_a_gpus_memory_is_what_nvidia_smi_says(
    nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi('[ "$4" = 1 ] && echo 81559 || echo "[N/A]"')
    assert device_of("1").memory_bytes == 81559 << 20
    assert device_of("0").memory_bytes is None
    assert device_of("MIG-1").memory_bytes is None
    monkeypatch.setenv("PATH", "")
    assert device_of("2").memory_bytes is None


def test_gpus_are_counted_once_a_process(nvidia_smi: Callable[[str], None], tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    nvidia_smi(f"echo x >> {asked}; echo 'GPU 0: H100 (UUID: a)'; echo 'GPU 1: H100 (UUID: b)'")
    assert [visible_gpus(), visible_gpus()] == [("0", "1"), ("0", "1")]
    assert asked.read_text() == "x\n"


def test_a_gpu_machine_whose_driver_fails_is_no_cpu_machine(
    nvidia_smi: Callable[[str], None], tmp_path: Path, sqlite_url: str
) -> None:
    nvidia_smi("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    with pytest.raises(DevicesUnknown, match="exit code 18: Failed to initialize NVML"):
        num_slots()
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        env={**os.environ, "HONED_DATA_DIR": str(tmp_path), "HONED_DATABASE_URL": sqlite_url},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, "Failed to initialize NVML" in done.stderr) == (1, True)
    nvidia_smi("echo 'GPU 0: H100 (UUID: a)'")
    assert num_slots() == 1, "a failure is not remembered"


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize(("gpus", "seen"), [("", ""), ("GPU-b", "GPU-b")])
def test_a_trainer_sees_its_own_device_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: str, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    code = "import json, os; print(json.dumps({'seen': os.environ['CUDA_VISIBLE_DEVICES']}))"
    monkeypatch.setattr(trainer_process, "COMMAND", (sys.executable, "-c", code))
    with free_slot(tmp_path) as slot:
        assert slot is not None
        # A CPU slot on a machine whose GPUs were not counted.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        trainer = TrainerProcess(Claim("ftjob-a", 1), slot, log=tmp_path / "log", lease_seconds=20)
        assert trainer.wait(30) == 0
        assert trainer.messages() == [{"seen": seen}]
        trainer.close()
