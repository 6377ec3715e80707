"""Trying graders out: an end to every request, and so many at once a project."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from waiting import wait_for

from service import turns
from service.dependencies import Resources
from service.turns import Turns

GRADERS = "/v1/fine_tuning/alpha/graders"
SLEEPS = "def grade(sample, item):\n    import time\n    time.sleep(item['for'])\n    return 1.0\n"
LENGTH = {"type": "length", "unit": "characters", "target": 4}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SECONDS", 3.0)


def sleeper(**limits: float) -> dict[str, Any]:
    return {"type": "python", "source": SLEEPS, **limits}


def resources_of(client: TestClient) -> Resources:
    return client.app.state.resources  # type: ignore[attr-defined, no-any-return]


def test_what_is_late_is_flagged_and_the_rest_is_graded(client: TestClient, hurried: None) -> None:
    samples = [{"model_sample": "x", "item": {"for": seconds}} for seconds in (0, 7, 0)]
    body = {"grader": sleeper(wall_seconds=9), "samples": samples}
    data = client.post(f"{GRADERS}/run", json=body).json()["data"]
    assert [one["reward"] for one in data] == [1.0, 0.0, 1.0]
    flags = [one["metadata"]["errors"]["unresponsive_reward_error"] for one in data]
    assert flags == [False, True, False]
    assert "time was over" in data[1]["metadata"]["error_details"]
    # What still runs keeps its place until it ends.
    assert sum(resources_of(client).turns._taken.values()) == 1
    wait_for(lambda: not resources_of(client).turns._taken, seconds=20, what="its end")


def test_a_single_late_sample_is_a_200_with_its_flag(client: TestClient, hurried: None) -> None:
    body = {"grader": sleeper(wall_seconds=6), "model_sample": "x", "item": {"for": 5}}
    answer = client.post(f"{GRADERS}/run", json=body)
    assert answer.status_code == 200
    assert answer.json()["metadata"]["errors"]["unresponsive_reward_error"] is True


@pytest.mark.parametrize("verb", ["run", "validate"])
def test_a_grader_that_does_not_load_in_time_is_a_400(
    client: TestClient, hurried: None, verb: str
) -> None:
    """And no 408, which clients would send again."""
    source = "import time\ntime.sleep(5)\n" + SLEEPS
    body = {"grader": {"type": "python", "source": source}}
    more = {"model_sample": "x"} if verb == "run" else {}
    error = error_of(client.post(f"{GRADERS}/{verb}", json={**body, **more}), 400)
    assert (error["code"], error["param"]) == ("invalid_grader", "grader")
    assert "did not load within" in error["message"]


def test_callers_wait_for_a_place_and_are_all_answered(client: TestClient) -> None:
    body = {"grader": sleeper(), "model_sample": "x", "item": {"for": 0.05}}
    with ThreadPoolExecutor(32) as threads:
        calls = [threads.submit(client.post, f"{GRADERS}/run", json=body) for _ in range(32)]
        answers = [call.result(60) for call in calls]
    assert [answer.status_code for answer in answers] == [200] * 32
    assert {answer.json()["reward"] for answer in answers} == {1.0}
    assert (resources_of(client).turns._taken, resources_of(client).turns._waiting) == ({}, {})


def test_a_line_that_is_full_is_told_when_to_come_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MAX_AT_ONCE", 1)
    monkeypatch.setattr(turns, "MAX_WAITING", 1)
    body = {"grader": LENGTH, "model_sample": "four"}
    held = resources_of(client).turns
    (project,) = _projects_of(client)
    with ThreadPoolExecutor(1) as threads:
        with closing(asyncio.run(held.begin(project))):
            waiting = threads.submit(client.post, f"{GRADERS}/run", json=body)
            wait_for(lambda: held._waiting.get(project), seconds=20, what="the line")
            refused = [client.post(f"{GRADERS}/run", json=body) for _ in range(16)]
            assert error_of(refused[0], 429)["code"] == "rate_limit_exceeded"
            assert "samples" in error_of(refused[0], 429)["message"]
            spread = {int(answer.headers["Retry-After"]) for answer in refused}
            assert len(spread) > 1
            assert spread <= set(range(2, 11))
            assert client.post(f"{GRADERS}/validate", json={"grader": LENGTH}).status_code == 429
            with closing(asyncio.run(held.begin("another"))):
                assert not waiting.done()
        assert waiting.result(20).json()["reward"] == 1.0


def test_nobody_waits_for_ever_and_who_leaves_keeps_no_place(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MAX_AT_ONCE", 1)
    held = Turns()

    async def leaves() -> None:
        first = await held.begin("p")
        gone, next_one = (asyncio.create_task(held.begin("p")) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        first.close()
        second = await next_one
        late = asyncio.create_task(held.begin("p"))
        await asyncio.sleep(0)
        second.close()  # it was given the place, and is cancelled before it knew
        late.cancel()
        await asyncio.wait([late])
        assert (gone.cancelled(), late.cancelled()) == (True, True)

    asyncio.run(leaves())
    assert (held._taken, held._waiting) == ({}, {})
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.2)
    (project,) = _projects_of(client)
    with closing(asyncio.run(resources_of(client).turns.begin(project))):
        answer = client.post(f"{GRADERS}/validate", json={"grader": LENGTH})
    assert "none has ended within 0.2 seconds" in error_of(answer, 429)["message"]


def _projects_of(client: TestClient) -> list[str]:
    """The project whose key the client has: that which takes a place."""
    seen: list[str] = []
    held = resources_of(client).turns
    begin = held.begin
    held.begin = lambda project: seen.append(project) or begin(project)  # type: ignore[method-assign, func-returns-value]
    client.post(f"{GRADERS}/validate", json={"grader": LENGTH})
    del held.begin  # type: ignore[method-assign]
    return seen


def test_a_place_is_free_only_once_the_last_of_its_work_has_ended(hurried: None) -> None:
    held, over = Turns(), threading.Event()
    with closing(asyncio.run(held.begin("p"))) as turn:
        turn.ends_at = 0.0
        futures = turn.run([lambda: over.wait(20)] * 3)
    assert [future.cancelled() for future in futures] == [False, True, True]
    assert held._taken == {"p": 1}
    over.set()
    wait_for(lambda: not held._taken, seconds=20, what="its end")
