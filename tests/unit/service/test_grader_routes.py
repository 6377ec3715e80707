"""Graders validated and run over HTTP."""

from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient

GRADERS = "/v1/fine_tuning/alpha/graders"

EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
SHORT = {"type": "length", "name": "short", "unit": "words", "max": 3}
BOTH = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": EXACT, "short": SHORT},
    "calculate_output": "0.75 * exact + 0.25 * short",
}


def run(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post(f"{GRADERS}/run", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_run_answers_every_field(client: TestClient) -> None:
    answer = run(client, grader=EXACT, model_sample="4", item={"answer": "4"})
    assert answer["metadata"].pop("execution_time") >= 0
    assert answer == {
        "reward": 1.0,
        "metadata": {
            "name": "exact",
            "type": "string_check",
            "errors": {
                "formula_parse_error": False,
                "sample_parse_error": False,
                "truncated_observation_error": False,
                "unresponsive_reward_error": False,
                "invalid_variable_error": False,
                "other_error": False,
                "python_grader_server_error": False,
                "python_grader_server_error_type": None,
                "python_grader_runtime_error": False,
                "python_grader_runtime_error_details": None,
                "model_grader_server_error": False,
                "model_grader_refusal_error": False,
                "model_grader_parse_error": False,
                "model_grader_server_error_details": None,
            },
            "error_details": None,
            "scores": {},
            "token_usage": None,
            "sampled_model_name": None,
            "incidents": {},
            "warnings": [],
        },
        "sub_rewards": {},
        "model_grader_token_usage_per_model": {},
    }


def test_a_multi_grader_shows_its_parts(client: TestClient) -> None:
    answer = run(client, grader=BOTH, model_sample="5", item={"answer": "4"})
    assert answer["reward"] == 0.25
    assert answer["sub_rewards"] == {"exact": 0.0, "short": 1.0}
    assert answer["metadata"]["scores"] == answer["sub_rewards"]


def test_a_grader_that_fails_is_flagged_not_silent(client: TestClient) -> None:
    answer = run(client, grader=BOTH, model_sample="5")
    assert answer["reward"] == 0.0
    assert answer["metadata"]["errors"]["invalid_variable_error"] is True
    assert "answer" in answer["metadata"]["error_details"]
    assert answer["sub_rewards"]["exact"] is None


def test_output_json_is_filled_when_the_sample_is_json(client: TestClient) -> None:
    grader = {**EXACT, "input": "{{sample.output_json.n}}"}
    assert run(client, grader=grader, model_sample='{"n": 4}', item={"answer": 4})["reward"] == 1.0
    answer = run(client, grader=grader, model_sample="four", item={"answer": 4})
    assert answer["metadata"]["errors"]["sample_parse_error"] is True


def test_validate_fills_in_defaults(client: TestClient) -> None:
    answer = client.post(f"{GRADERS}/validate", json={"grader": {**SHORT, "name": None}})
    assert answer.status_code == 200
    assert answer.json()["grader"]["name"] == "length"


@pytest.mark.parametrize("verb", ["run", "validate"])
@pytest.mark.parametrize(
    ("grader", "param", "sentence"),
    [
        ({"type": "magic"}, "grader.type", "unknown grader type 'magic'"),
        ({**EXACT, "operation": "is"}, "grader.operation", "'eq'"),
        ({"type": "python", "source": "def grade(s): ..."}, "grader.source", "two arguments"),
        ({"type": "python", "source": "def grade("}, "grader.source", "SyntaxError"),
        ({**BOTH, "calculate_output": "exact +"}, "grader.calculate_output", "formula"),
        ("exact", "grader", "dictionary"),
    ],
)
def test_a_bad_grader_is_refused_with_its_place(
    client: TestClient, verb: str, grader: Any, param: str, sentence: str
) -> None:
    body = {"grader": grader, **({"model_sample": "x"} if verb == "run" else {})}
    error = error_of(client.post(f"{GRADERS}/{verb}", json=body), 400)
    assert (error["param"], sentence in error["message"]) == (param, True), error


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model_sample": "x"}, "grader"),
        ({"grader": EXACT}, "model_sample"),
        ({"grader": EXACT, "model_sample": 4}, "model_sample"),
        ({"grader": EXACT, "model_sample": "x", "item": [1]}, "item"),
        ({"grader": EXACT, "model_sample": "x", "reference_answer": "4"}, "reference_answer"),
        ([], None),
    ],
)
def test_a_bad_body_names_the_field(client: TestClient, body: Any, param: str | None) -> None:
    assert error_of(client.post(f"{GRADERS}/run", json=body), 400)["param"] == param
