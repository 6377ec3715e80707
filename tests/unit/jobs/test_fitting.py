"""A worker takes the jobs that fit its device; the others wait, and say what for."""

from collections.abc import Callable

import pytest
from holding import Sessions, messages, row, set_columns

from jobs.db import transaction
from jobs.devices import Device
from jobs.store import attempts, fitting
from jobs.store.attempts import Claim

pytestmark = pytest.mark.on_both_databases

MakeJob = Callable[..., str]
GB = 10**9


def claim(sessions: Sessions, device: Device) -> Claim | None:
    with transaction(sessions) as session:
        found = attempts.claim(session, worker="w:1", lease_seconds=60, device=device)
        if found is None:
            fitting.decline(session, worker="w", device=device)
        return found


def test_a_job_too_large_is_left_for_another_and_the_one_behind_it_is_taken(
    sessions: Sessions, make_job: MakeJob
) -> None:
    large = make_job(memory_cuda_bytes=40 * GB, priority=1)
    small = make_job(memory_cuda_bytes=8 * GB)
    taken = claim(sessions, Device("cuda", 16 * GB))
    assert taken is not None
    assert taken.job_id == small
    assert claim(sessions, Device("cuda", 16 * GB)) is None
    taken = claim(sessions, Device("cuda", 80 * GB))
    assert taken is not None
    assert taken.job_id == large


def test_the_reason_has_the_numbers_and_is_said_once_a_larger_device(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job(memory_cuda_bytes=40 * GB)
    for memory in (16, 16, 8, 24, 16):
        assert claim(sessions, Device("cuda", memory * GB)) is None
    said = [one for one in messages(sessions, job_id) if one.startswith("Waiting for a device")]
    assert len(said) == 2
    assert "needs about 40.0 GB" in said[0]
    assert "of worker w, has 16.0 GB" in said[0]
    assert "has 24.0 GB" in said[1]
    waits = row(sessions, job_id).turned_away
    assert waits is not None
    assert waits["cuda"]["device_bytes"] == 24 * GB
    assert claim(sessions, Device("cuda", 40 * GB)) is not None
    assert row(sessions, job_id).turned_away is None


def test_a_gpus_reason_goes_before_a_larger_processors(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job(memory_cuda_bytes=40 * GB, memory_cpu_bytes=90 * GB)
    said = []
    for device in (Device("cpu", 64 * GB), Device("cuda", 16 * GB), Device("cpu", 64 * GB)):
        assert claim(sessions, device) is None
        waits = row(sessions, job_id).turned_away
        assert waits is not None
        said.append(fitting.sentence(waits))
    assert "needs about 90.0 GB" in said[0]
    assert "needs about 40.0 GB" in said[1]
    assert said[2] == said[1]
    waiting = [one for one in messages(sessions, job_id) if one.startswith("Waiting for a device")]
    assert waiting == said[:2]


def test_each_kind_of_device_has_its_own_forecast(sessions: Sessions, make_job: MakeJob) -> None:
    make_job(memory_cuda_bytes=1 * GB, memory_cpu_bytes=9 * GB)
    assert claim(sessions, Device("cpu", 4 * GB)) is None
    assert claim(sessions, Device("cuda", 4 * GB)) is not None


def test_what_cannot_be_known_is_not_held_against_anyone(
    sessions: Sessions, make_job: MakeJob
) -> None:
    make_job(memory_cuda_bytes=400 * GB)
    assert claim(sessions, Device("cuda", None)) is not None
    set_columns(sessions, make_job(), memory_cpu_bytes=None)
    assert claim(sessions, Device("cpu", 1)) is not None


@pytest.mark.parametrize("begun_on", ["cpu", "cuda", "cuda:0"])
def test_a_job_goes_on_only_on_the_kind_of_device_that_it_began_on(
    sessions: Sessions, make_job: MakeJob, begun_on: str
) -> None:
    job_id = make_job()
    begun = {"machine": {"device": begun_on, "threads": 1}}
    set_columns(sessions, job_id, resolved=begun, attempt=1)
    kind, other = ("cpu", "cuda") if begun_on == "cpu" else ("cuda", "cpu")
    for memory_bytes in (100 * GB, None, 1):
        assert claim(sessions, Device(other, memory_bytes)) is None  # type: ignore[arg-type]
    waits = row(sessions, job_id).turned_away
    assert waits == {other: {"begun_on": kind, "worker": "w"}}
    needs = "that trains on its processor" if kind == "cpu" else "with a GPU"
    has = "trains on a GPU" if kind == "cpu" else "has none"
    assert fitting.sentence(waits) == (
        f"Waiting for a worker {needs}: the job began on one, and on another kind of device it "
        f"would compute other numbers. Worker w {has}."
    )
    said = [one for one in messages(sessions, job_id) if one.startswith("Waiting for")]
    assert said == [fitting.sentence(waits)]
    taken = claim(sessions, Device(kind, 100 * GB))  # type: ignore[arg-type]
    assert taken is not None
    assert taken.job_id == job_id
    assert row(sessions, job_id).turned_away is None


def test_memory_is_the_reason_where_a_device_of_its_kind_is_too_small(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job_id = make_job(memory_cpu_bytes=90 * GB)
    begun = {"machine": {"device": "cpu", "threads": 1}}
    set_columns(sessions, job_id, resolved=begun, attempt=1)
    for device in (Device("cuda", 80 * GB), Device("cpu", 64 * GB)):
        assert claim(sessions, device) is None
    waits = row(sessions, job_id).turned_away
    assert waits is not None
    assert waits.keys() == {"cuda", "cpu"}
    assert "needs about 90.0 GB" in fitting.sentence(waits)
