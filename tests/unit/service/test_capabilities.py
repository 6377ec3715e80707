"""What the server says that graders can do here, and what to install or set for the rest."""

import importlib.util
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.graders import GRADER_TYPES, Means
from jobs.graders.offload import cage, similarity

GRADERS = "/v1/fine_tuning/alpha/graders"
AT = {"base_url": "https://judge.example/v1"}


def shown(client: TestClient) -> dict[str, Any]:
    """Each grader type, by its name."""
    listed = client.get("/v1/capabilities").json()["graders"]
    return {one["type"]: one for one in listed}


def test_every_type_is_listed_with_its_schema_and_the_isolation(client: TestClient) -> None:
    types = shown(client)
    assert set(types) == set(GRADER_TYPES)
    for one in types.values():
        assert one["description"]
        assert "type" in one["json_schema"]["properties"]
        assert one["usable"] == (one["reason"] is None)
    assert types["string_check"] | {"description": "", "json_schema": {}} == {
        "type": "string_check",
        "description": "",
        "usable": True,
        "reason": None,
        "limitations": [],
        "json_schema": {},
    }
    python = client.get("/v1/capabilities").json()["python_graders"]
    assert python["level"] in ("bwrap", "landlock", "sealed")
    assert {"numpy", "rapidfuzz", "pydantic"} <= set(python["packages"])


def test_a_bare_server_says_what_its_operator_can_set(client: TestClient) -> None:
    types = shown(client)
    for judged in ("score_model", "label_model", "ruler"):
        assert types[judged]["usable"]
        assert "HONED_JUDGES" in types[judged]["limitations"][0]
    (away,) = types["reward_model"]["limitations"]
    assert "HONED_SERVING_URL" in away
    assert "HONED_ENDPOINT_SECRET" in types["endpoint"]["limitations"][0]
    similar = types["text_similarity"]["limitations"]
    assert "HONED_EMBEDDINGS" in similar[0]
    assert "HONED_EMBEDDING_MODEL" in similar[0]
    told = any("WordNet" in sentence for sentence in similar)
    assert told != similarity._has_wordnet()


def test_what_the_operator_has_set_is_no_limitation(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("HONED_JUDGES", json.dumps({"strict": AT}))
    monkeypatch.setenv("HONED_EMBEDDINGS", json.dumps(AT))
    monkeypatch.setenv("HONED_ENDPOINT_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    types = shown(request.getfixturevalue("client"))
    assert types["endpoint"]["limitations"] == []
    for judged in ("score_model", "label_model", "ruler"):
        assert (types[judged]["usable"], types[judged]["limitations"]) == (True, [])
    assert not any("cosine" in one for one in types["text_similarity"]["limitations"])


@pytest.mark.parametrize("kind", ["score_model", "label_model", "ruler", "reward_model"])
def test_where_nothing_judges_or_runs_models_the_type_is_not_usable(kind: str) -> None:
    reason = GRADER_TYPES[kind].why_unusable(Means())
    assert reason is not None
    assert ("HONED_JUDGES" in reason) == (kind != "reward_model")


def test_reasoning_gym_says_what_it_needs(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cage, "is_caged", lambda: False)
    assert "install bubblewrap" in shown(client)["reasoning_gym"]["reason"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = shown(client)["reasoning_gym"]
    assert not found["usable"]
    assert "pip install reasoning-gym" in found["reason"]


def test_without_isolation_python_is_off_and_says_why(
    client: TestClient, no_isolation: None
) -> None:
    python = client.get("/v1/capabilities").json()["python_graders"]
    assert python["level"] == "off"
    assert "HONED_UNSAFE_PYTHON_GRADERS" in python["reason"]
    found = shown(client)["python"]
    assert not found["usable"]
    assert "Install bubblewrap" in found["reason"]


def test_the_opt_in_is_shown_to_everyone(
    client: TestClient, no_isolation: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONED_UNSAFE_PYTHON_GRADERS", "1")
    python = client.get("/v1/capabilities").json()["python_graders"]
    assert python["level"] == "none"
    assert "NO ISOLATION" in python["reason"]
    found = shown(client)["python"]
    assert found["usable"]
    assert "is not isolated" in found["limitations"][0]
    grader = {"type": "python", "source": "def grade(sample, item):\n    return 1\n"}
    body = {"grader": grader, "model_sample": "x", "item": {}}
    assert client.post(f"{GRADERS}/run", json=body).json()["reward"] == 1.0
