"""Lists of jobs: filtered by their owner's labels, in one order, and they end."""

from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.models import Job
from jobs.store import events

pytestmark = pytest.mark.on_both_databases

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def make(client: TestClient, body: dict[str, Any]) -> Any:
    """Makes a job with these labels; its id."""

    def make(metadata: dict[str, str] | None) -> str:
        return str(client.post(JOBS, json={**body, "metadata": metadata}).json()["id"])

    return make


def ids(client: TestClient, query: str = "") -> list[str]:
    return [job["id"] for job in client.get(f"{JOBS}{query}").json()["data"]]


def test_labels_filter(client: TestClient, make: Any) -> None:
    red, blue, odd, none = (
        make({"team": "red", "run": "1"}),
        make({"team": "blue", "run": "1"}),
        make({'a"] b.$': "x'y%", "e": ""}),
        make(None),
    )
    empty = make({})
    assert ids(client, "?metadata[team]=red") == [red]
    assert ids(client, "?metadata%5Brun%5D=1") == [blue, red]
    assert ids(client, "?metadata[run]=1&metadata[team]=blue") == [blue]
    assert ids(client, "?metadata[team]=RED") == []
    assert ids(client, "?metadata[run]=") == []
    assert ids(client, "?metadata[e]=") == [odd]
    query = {'metadata[a"] b.$]': "x'y%"}
    assert [job["id"] for job in client.get(JOBS, params=query).json()["data"]] == [odd]
    assert ids(client, "?metadata=null") == [empty, none]
    page = client.get(f"{JOBS}?metadata[run]=1&limit=1").json()
    assert (page["data"][0]["id"], page["has_more"]) == (blue, True)
    page = client.get(f"{JOBS}?metadata[run]=1&limit=1&after={blue}").json()
    assert (page["data"][0]["id"], page["has_more"]) == (red, False)


def test_a_page_holds_a_hundred_whatever_is_asked(
    client: TestClient, make: Any, sessions: sessionmaker[Session]
) -> None:
    newest = make(None)
    with transaction(sessions) as session:
        for number in range(101):
            events.add(session, newest, f"event {number}")
    for path in ("", f"/{newest}/checkpoints"):
        page = client.get(f"{JOBS}{path}?limit=1000").json()
        assert page["has_more"] is False
        assert error_of(client.get(f"{JOBS}{path}?limit=0"), 400)["param"] == "limit"
    page = client.get(f"{JOBS}/{newest}/events?limit=1000").json()
    assert (len(page["data"]), page["has_more"]) == (100, True)


@pytest.mark.parametrize(
    "query",
    ["metadata=red", "metadata[a=1", "metadata[a]=1&metadata[a]=2", "metadata=null&metadata[a]=1"],
)
def test_a_filter_that_cannot_be_met(client: TestClient, query: str) -> None:
    assert error_of(client.get(f"{JOBS}?{query}"), 400)["param"] == "metadata"


def test_ties_have_an_order_and_the_walk_ends(
    client: TestClient, make: Any, sessions: sessionmaker[Session]
) -> None:
    made = {make(None) for _ in range(7)}
    with transaction(sessions) as session:
        session.execute(update(Job).values(created_at=1_700_000_000.0))
    walked: list[str] = []
    after = ""
    while True:
        page = client.get(f"{JOBS}?limit=3{after}").json()
        walked += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert (len(walked), set(walked)) == (7, made)
    assert walked == ids(client)
