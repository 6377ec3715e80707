"""Graders with judges over HTTP, many samples at once, and token counts."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from peer_server import Asked, Peer, Says, completion, serving, verdict

RUN = "/v1/fine_tuning/alpha/graders/run"
SCORE = {
    "type": "score_model",
    "name": "polite",
    "model": "judge",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
}
LENGTH = {"type": "length", "unit": "characters", "target": 4}


def says(asked: Asked) -> Says:
    """Half for anything, and failures by request."""
    text = asked.last_text
    if text == "refuse":
        return Says(completion(None, refusal="no"))
    if text == "break":
        return Says({}, status=500, headers={"Retry-After": "0"})
    if text == "garble":
        return Says(completion("hm"))
    return Says(verdict(0.5, tokens=(30, 5, 10)))


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """Requested before `client`, whose application reads the setting."""
    with serving(says) as peer:
        judges = {"judge": {"base_url": peer.url, "timeout_seconds": 5}}
        monkeypatch.setenv("HONED_JUDGES", json.dumps(judges))
        yield peer


def run(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post(RUN, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_judges_run_shows_its_tokens_and_model(judge: Peer, client: TestClient) -> None:
    answer = run(client, grader=SCORE, model_sample="hello")
    assert answer["reward"] == 0.5
    assert answer["metadata"]["sampled_model_name"] == "judge-1"
    assert answer["metadata"]["token_usage"] is None
    assert answer["model_grader_token_usage_per_model"] == {
        "judge": {
            "prompt_tokens": 30,
            "completion_tokens": 5,
            "total_tokens": 35,
            "cached_tokens": 10,
        }
    }


@pytest.mark.parametrize(
    ("text", "flag", "details"),
    [
        ("refuse", "model_grader_refusal_error", None),
        ("garble", "model_grader_parse_error", None),
        ("break", "model_grader_server_error", "it answered 500 (asked 2 times)"),
    ],
)
def test_a_judges_failure_has_its_flag_and_its_details(
    judge: Peer, client: TestClient, text: str, flag: str, details: str | None
) -> None:
    answer = run(client, grader=SCORE, model_sample=text)
    assert answer["reward"] == 0.0
    errors = answer["metadata"]["errors"]
    assert [name for name, value in errors.items() if value is True] == [flag]
    shown = errors["model_grader_server_error_details"]
    assert shown is None if details is None else shown.endswith(details)
    # Who answered, also when the answer is of no use.
    has_answered = flag != "model_grader_server_error"
    assert answer["metadata"]["sampled_model_name"] == ("judge" if has_answered else None)


def test_many_samples_at_once_are_answered_in_their_order(judge: Peer, client: TestClient) -> None:
    grader = {
        "type": "multi",
        "graders": {"polite": SCORE, "long": LENGTH},
        "calculate_output": "polite + long",
    }
    texts = ["four", "refuse", "ab", "four"]
    answer = run(client, grader=grader, samples=[{"model_sample": text} for text in texts])
    assert answer["object"] == "list"
    assert [one["reward"] for one in answer["data"]] == [1.5, 0.0, 1.0, 1.5]
    assert [one["sub_rewards"] for one in answer["data"]][1] == {"polite": None, "long": 0.5}
    assert answer["data"][1]["metadata"]["errors"]["model_grader_refusal_error"] is True


def test_a_ranking_grader_takes_samples_of_one_item_as_siblings(
    judge: Peer, client: TestClient
) -> None:
    def rank(asked: Asked) -> Says:
        answers = json.loads(asked.last_text)["answers"]
        scores = [
            {"id": one["id"], "explanation": "", "score": int(one["answer"]) / 10}
            for one in answers
        ]
        return Says(completion(json.dumps({"scores": scores})))

    judge.behaviour = rank
    samples = [
        {"model_sample": str(number), "item": {"messages": [], "group": number % 2}}
        for number in range(4)
    ]
    answer = run(client, grader={"type": "ruler", "model": "judge"}, samples=samples)
    assert [one["reward"] for one in answer["data"]] == [0.0, 0.1, 0.2, 0.3]
    assert len(judge.asked) == 2


def test_tokens_are_counted_by_the_models_tokenizer(client: TestClient) -> None:
    grader = {"type": "length", "unit": "tokens", "target": 5}
    # The starter's tokens are bytes; one more ends the answer.
    answer = run(client, grader=grader, model_sample="four", model="honed/starter")
    assert answer["reward"] == 1.0
    without = run(client, grader=grader, model_sample="four")
    assert without["metadata"]["errors"]["other_error"] is True


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"samples": []}, 400, "samples"),
        ({"samples": [{"item": {}}]}, 400, "samples.0.model_sample"),
        ({"samples": [{"model_sample": "a"}] * 257}, 400, "samples"),
        ({"samples": [{"model_sample": "a"}], "model_sample": "a"}, 400, "model_sample"),
        ({"model_sample": "a", "model": "nowhere"}, 404, "model"),
        ({"model_sample": "a", "model": "org/name"}, 400, "model"),
    ],
)
def test_bad_bodies(client: TestClient, body: dict[str, Any], status: int, param: str) -> None:
    error = error_of(client.post(RUN, json={"grader": LENGTH, **body}), status)
    assert error["param"] == param


def test_an_item_of_null_is_none(client: TestClient) -> None:
    body = {"grader": LENGTH, "model_sample": "four"}
    wanted = client.post(RUN, json=body).json()["reward"]
    assert client.post(RUN, json={**body, "item": None, "model": None}).json()["reward"] == wanted
    samples = {"grader": LENGTH, "samples": [{"model_sample": "four", "item": None}]}
    assert client.post(RUN, json=samples).json()["data"][0]["reward"] == wanted
