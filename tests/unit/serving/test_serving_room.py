"""Models make room for a job whose forecast does not fit beside them. The device is made up."""

from pathlib import Path

import pytest

from jobs.serving import Served
from jobs.settings import Settings
from worker.serving import memory
from worker.serving.hosted import HostedModel
from worker.serving.hosting import DoesNotFit, Hosting

GB = 10**9


class Device:
    """A GPU of 80 GB, and a job that waits for it."""

    job_bytes = 0
    free_bytes = 60 * GB


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(memory, "device_type", lambda: "cuda")
    monkeypatch.setattr(memory, "total_bytes", lambda: 80 * GB)
    monkeypatch.setattr(memory, "needed_bytes", lambda folder: 16 * GB)
    monkeypatch.setattr(memory, "reserved_bytes", lambda: 20 * GB)
    monkeypatch.setattr(memory, "free_bytes", lambda: device.free_bytes)
    return device


@pytest.fixture
def hosting(device: Device, talker: Path) -> Hosting:
    return Hosting(
        Settings(model_roots=(talker.parent,)),
        has_jobs=lambda: device.job_bytes > 0,
        job_bytes=lambda: device.job_bytes,
    )


@pytest.fixture
def served(talker: Path) -> Served:
    return Served(name="talker", base={"folder": str(talker)})


def test_a_job_that_fits_beside_them_leaves_them(
    hosting: Hosting, device: Device, served: Served
) -> None:
    model = hosting.take(HostedModel, served)
    hosting.release(model)
    device.job_bytes = 60 * GB
    hosting.tidy()
    assert hosting.loaded == [model]


def test_an_idle_one_makes_room_at_once_and_is_not_loaded_again(
    hosting: Hosting, device: Device, served: Served
) -> None:
    hosting.release(hosting.take(HostedModel, served))
    device.job_bytes = 61 * GB
    hosting.tidy()
    assert hosting.loaded == []
    device.job_bytes = 70 * GB
    with pytest.raises(DoesNotFit):
        hosting.take(HostedModel, served)
    device.job_bytes = 0
    hosting.tidy()
    assert hosting.take(HostedModel, served)


def test_one_in_use_answers_to_the_end_takes_nothing_new_and_goes(
    hosting: Hosting, device: Device, served: Served
) -> None:
    model = hosting.take(HostedModel, served)
    device.job_bytes = 61 * GB
    hosting.tidy()
    assert hosting.loaded == [model]
    with pytest.raises(DoesNotFit, match="A job needs the memory") as caught:
        hosting.take(HostedModel, served)
    assert (caught.value.status, caught.value.code) == (503, "model_does_not_fit")
    hosting.release(model)
    hosting.tidy()
    assert hosting.loaded == []


def test_a_gpu_without_memory_is_scarce(device: Device) -> None:
    assert not memory.is_scarce()
    device.free_bytes = GB // 4
    assert memory.is_scarce()
