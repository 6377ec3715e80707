"""A job's method, as OpenAI's client shows it, asks for the same job when it is sent again."""

from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from openai.types.fine_tuning import FineTuningJob

from jobs.hyperparameters import Hyperparameters
from jobs.registry import DEFAULT_LEARNING_RATE
from jobs.resolve import resolve

Body = dict[str, Any]
JOBS = "/v1/fine_tuning/jobs"


def method_of(client: TestClient, job_id: str) -> Body:
    shown = FineTuningJob.construct(**client.get(f"{JOBS}/{job_id}").json())
    assert shown.method is not None
    method = shown.method.model_dump()
    assert method["supervised"] is method["dpo"] is None
    return method


@pytest.mark.parametrize("num_held_out", [0, 3])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"group_size": 5, "learning_rate": 3e-6},
        {"compute_multiplier": 0.7, "learning_rate_multiplier": 0.3},
        {"group_size": 200, "learning_rate": 0.5},  # of which no multiplier could be sent
        {"learning_rate": 1e-5, "learning_rate_multiplier": 0.5},
    ],
)
def test_a_resolved_job_is_made_again(
    client: TestClient, body: Body, worker: Any, asked: Body, num_held_out: int
) -> None:
    def numbers(hyperparameters: Body) -> Body:
        values = resolve(
            Hyperparameters.model_validate(hyperparameters),
            num_rows=3,
            num_held_out=num_held_out,
            model_learning_rate=DEFAULT_LEARNING_RATE,
        )
        return {key: value for key, value in values.items() if key != "lora"}

    if not num_held_out:
        del body["validation_file"]
    body["method"]["reinforcement"]["hyperparameters"] = asked
    first = client.post(JOBS, json=body).json()["id"]
    worker.admit(first, hyperparameters=numbers(asked))
    method = method_of(client, first)
    assert method["reinforcement"]["hyperparameters"]["max_steps"] == 100
    again = client.post(JOBS, json={**body, "method": method})
    assert again.status_code == 200, again.text
    sent = again.json()["method"]["reinforcement"]["hyperparameters"]
    assert numbers(sent) == pytest.approx(numbers(asked))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"learning_rate": 1e-5, "learning_rate_multiplier": 0.6}, "own rate 1.2e-05: keep one"),
        ({"group_size": 5, "compute_multiplier": 0.7}, "makes it 6: keep one"),
    ],
)
def test_a_contradiction_is_refused(
    client: TestClient, body: Body, asked: Body, sentence: str
) -> None:
    body["method"]["reinforcement"]["hyperparameters"] = asked
    error = error_of(client.post(JOBS, json=body), 400)
    assert error["param"] == "method.reinforcement.hyperparameters"
    assert sentence in error["message"]


def test_another_method_beside_it_is_refused(client: TestClient, body: Body) -> None:
    body["method"]["dpo"] = {}
    assert error_of(client.post(JOBS, json=body), 400)["param"] == "method.dpo"
