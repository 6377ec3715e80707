"""Judges for graders to ask."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from court import Court
from peer_server import Behaviour, serving

from jobs.graders import Means
from jobs.graders.sandbox.pools import on_behalf_of
from jobs.graders.settings import GraderSettings


@pytest.fixture(scope="package", autouse=True)
def tenant() -> Iterator[None]:
    """Graders parsed here are somebody's."""
    with on_behalf_of("tests"):
        yield


@pytest.fixture
def court(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Court]]:
    """Opens a court whose judge behaves so."""
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    opened: list[Any] = []

    def open_court(behaviour: Behaviour, **judge: Any) -> Court:
        context = serving(behaviour)
        peer = context.__enter__()
        settings = {
            "base_url": f"{peer.url}/v1",
            "api_key_env": "JUDGE_KEY",
            "model": "gpt-judge",
            "max_retries": 1,
            "timeout_seconds": 2,
            **judge,
        }
        monkeypatch.setenv("HONED_JUDGES", json.dumps({"strict": settings}))
        means = Means.of(GraderSettings())
        opened.append((context, means))
        return Court(peer, means)

    yield open_court
    for context, means in opened:
        means.close()
        context.__exit__(None, None, None)
