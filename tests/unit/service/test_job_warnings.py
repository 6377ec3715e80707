"""What a job is taken with all the same, and warned of in its events."""

from typing import Any

from fastapi.testclient import TestClient

JOBS = "/v1/fine_tuning/jobs"


def test_a_strict_schema_is_taken_with_a_warning(client: TestClient, body: dict[str, Any]) -> None:
    form = {"name": "x", "schema": {"type": "object"}, "strict": True}
    reinforcement = body["method"]["reinforcement"]
    reinforcement["response_format"] = {"type": "json_schema", "json_schema": form}
    job = client.post(JOBS, json=body).json()
    events = client.get(f"{JOBS}/{job['id']}/events").json()["data"]
    (warning,) = [event for event in events if event["level"] == "warn"]
    assert "not held to the schema yet" in warning["message"]


def test_one_that_is_not_strict_warns_of_nothing(client: TestClient, body: dict[str, Any]) -> None:
    job = client.post(JOBS, json=body).json()
    events = client.get(f"{JOBS}/{job['id']}/events").json()["data"]
    assert {event["level"] for event in events} == {"info"}


def test_a_grader_that_runs_completions_is_told_on_the_job(
    client: TestClient, body: dict[str, Any]
) -> None:
    """Which is made all the same: OpenAI's API takes it, and no other row is at risk."""
    source = "def grade(sample, item):\n    return float(eval(sample['output_text']))\n"
    body["method"]["reinforcement"]["grader"] = {"type": "python", "source": source}
    answer = client.post(JOBS, json=body)
    assert answer.status_code == 200
    events = client.get(f"{JOBS}/{answer.json()['id']}/events").json()["data"]
    (warning,) = [event for event in events if event["level"] == "warn"]
    assert "line 2 (eval)" in warning["message"]
    assert "run_code(text)" in warning["message"]
