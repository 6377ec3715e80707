"""graders/run and validate under bodies made from their own schemas: never a 5xx."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.store.projects import IssuedKey

pytestmark = pytest.mark.slow

GRADERS = "/v1/fine_tuning/alpha/graders"
FEW = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("verb", ["run", "validate"])
def test_any_body_of_the_schema_is_answered(app: FastAPI, key: IssuedKey, verb: str) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operation = schema[f"{GRADERS}/{verb}"]["POST"]

    @FEW
    @given(operation.as_strategy())
    def check(case: Any) -> None:
        response = case.call(headers={"Authorization": f"Bearer {key.secret}"})
        assert response.status_code < 500, (case.body, response.text)

    check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
TEXT = (Path(__file__).parents[2] / "docs" / "graders.md").read_text()
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.S)]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container inside, with each of its keys or indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def test_definitions_with_one_thing_wrong_are_answered(client: TestClient) -> None:
    """The documented examples, each with some value replaced by another."""

    @FEW
    @given(st.sampled_from(EXAMPLES), st.data())
    def check(example: Any, data: st.DataObject) -> None:
        grader = copy.deepcopy(example["grader"])
        container, key = data.draw(st.sampled_from(list(places(grader))))
        container[key] = data.draw(JSON)
        text = data.draw(st.sampled_from([example["sample"]["output_text"], "", "{}"]))
        body = {"grader": grader, "model_sample": text, "item": example["item"]}
        response = client.post(
            f"{GRADERS}/run",
            content=json.dumps(body).encode("utf-8", "surrogatepass"),
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code < 500, (grader, response.text)

    check()
