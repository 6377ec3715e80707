"""What is wrong with files and models is found in `validating_files`, by line, and said plainly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from jobs.graders.reasoning_gym import unavailable
from jobs.models import Job
from jobs.registry import STARTER_FOLDER
from service.settings import ServiceSettings
from worker.validate import validate

needs_cage = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
Submit = Callable[..., dict[str, Any]]

GRADER = {
    "type": "string_check",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


def row(content: str = "What is 2 + 3?", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "answer": "5", **fields}


def jsonl(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in rows).encode()


@pytest.fixture
def submit(
    client: TestClient, settings: ServiceSettings, sessions: sessionmaker[Session]
) -> Submit:
    """Post a job with these files and validate it; its wire form afterwards."""

    def upload(content: bytes) -> str:
        files = {"file": ("rows.jsonl", content)}
        answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files=files)
        return answer.json()["id"]

    def submit(
        training: bytes,
        *,
        held_out: bytes | None = None,
        model: str = "honed/starter",
        grader: dict[str, Any] = GRADER,
        **hyperparameters: Any,
    ) -> dict[str, Any]:
        reinforcement = {"grader": grader, "hyperparameters": hyperparameters}
        body = {
            "model": model,
            "training_file": upload(training),
            "validation_file": upload(held_out) if held_out is not None else None,
            "method": {"type": "reinforcement", "reinforcement": reinforcement},
        }
        created = client.post("/v1/fine_tuning/jobs", json=body)
        assert created.status_code == 200, created.text
        assert created.json()["status"] == "validating_files"
        validate(created.json()["id"], settings, sessions)
        return client.get(f"/v1/fine_tuning/jobs/{created.json()['id']}").json()

    return submit


def test_good_files_are_queued_with_their_numbers(submit: Submit) -> None:
    job = submit(jsonl(*[row(f"What is 2 + {n}?") for n in range(40)]), held_out=jsonl(row()))

    assert (job["status"], job["error"]) == ("queued", None)
    asked = job["method"]["reinforcement"]["hyperparameters"]
    assert (asked["n_epochs"], asked["batch_size"], asked["group_size"]) == (20, 8, 8)
    assert asked["eval_samples"] == 1
    assert asked["max_completion_tokens"] == "auto"
    assert (job["total_steps"], job["rollouts_per_step"]) == (100, 64)


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        pytest.param(b"\n\n", "has no rows", id="blank"),
        pytest.param(b"id,answer\n1,2\n", "line 1: not JSON", id="csv"),
        pytest.param(bytes(range(256)) * 8, "line 1: ", id="binary"),
        pytest.param(jsonl(row(), {"answer": "5"}), "line 2: no 'messages'", id="no-messages"),
        pytest.param(jsonl(row(), row(), {"messages": []}), "line 3: 'messages'", id="empty"),
        pytest.param(
            jsonl({"messages": [{"role": "robot", "content": "x"}], "answer": "5"}),
            "line 1: messages[0].role is 'robot'",
            id="role",
        ),
        pytest.param(
            jsonl(row(), {"messages": row()["messages"]}),
            "line 2: the grader reads 'answer', which this row does not have",
            id="grader-field",
        ),
        pytest.param(
            jsonl(row("word " * 2000)), "no room is left for an answer", id="beyond-context"
        ),
    ],
)
def test_bad_rows_end_the_job_with_their_line(
    submit: Submit, training: bytes, sentence: str
) -> None:
    job = submit(training)

    assert job["status"] == "failed"
    assert job["error"]["code"] == "invalid_training_file"
    assert job["error"]["param"] == "training_file"
    assert sentence in job["error"]["message"]


def test_every_bad_row_is_named(submit: Submit, client: TestClient) -> None:
    job = submit(jsonl(*[{"answer": "5"}] * 30))
    message = job["error"]["message"]

    assert "30 rows cannot be used" in message
    assert "line 1: " in message
    assert "line 20: " in message
    assert message.endswith("; and 10 more, on lines 21-30")
    event = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events?limit=1").json()["data"][0]
    assert (event["level"], event["message"]) == ("error", message)
    assert event["data"]["file"] == job["training_file"]
    assert [fault["line"] for fault in event["data"]["faults"]] == list(range(1, 31))
    assert "no 'messages'" in event["data"]["faults"][29]["reason"]


def test_a_bad_validation_file_is_the_one_named(submit: Submit) -> None:
    job = submit(jsonl(*[row()] * 8), held_out=b"{}\n")

    assert job["error"]["code"] == "invalid_validation_file"
    assert job["error"]["param"] == "validation_file"


@pytest.mark.parametrize(
    ("hyperparameters", "named", "sentence"),
    [
        ({"batch_size": 9}, "batch_size", "has 8 rows"),
        ({"eval_samples": 2}, "eval_samples", "validation file has 1 rows"),
        ({"max_completion_tokens": 512}, "max_completion_tokens", "would fit"),
    ],
)
def test_what_the_files_cannot_carry_is_refused_by_name(
    submit: Submit, hyperparameters: dict[str, Any], named: str, sentence: str
) -> None:
    job = submit(jsonl(*[row()] * 8), held_out=jsonl(row()), **hyperparameters)

    assert job["error"]["code"] == "invalid_hyperparameters"
    assert job["error"]["param"] == f"method.reinforcement.hyperparameters.{named}"
    assert sentence in job["error"]["message"]


def test_the_hub_out_of_reach_says_what_to_set(
    submit: Submit, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "offline", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    job = submit(jsonl(row()), model="nobody/nothing")

    assert job["error"]["code"] == "model_not_available"
    assert job["error"]["param"] == "model"
    assert "not whole in this machine's cache" in job["error"]["message"]


def test_a_model_folder_under_a_listed_root_is_taken(submit: Submit, model_folder: Path) -> None:
    shutil.copytree(STARTER_FOLDER, model_folder, dirs_exist_ok=True)

    job = submit(jsonl(*[row()] * 8), model=str(model_folder))

    assert (job["status"], job["model"]) == ("queued", str(model_folder))


def test_a_row_whose_picture_no_judge_is_shown_is_named(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("HONED_JUDGES", '{"strict": {"base_url": "https://judge.example/v1"}}')
    submit: Submit = request.getfixturevalue("submit")
    part = {"type": "input_image", "image_url": "{{item.picture}}"}
    seen = {"type": "score_model", "model": "strict", "input": [{"role": "user", "content": part}]}
    grader = {"type": "multi", "graders": {"a": seen}, "calculate_output": "a"}
    rows = [row(picture=f"{scheme}://example.com/a.png") for scheme in ("https", "http")]
    job = submit(jsonl(*rows), grader=grader)
    assert job["error"]["code"] == "invalid_training_file"
    assert "line 2: the grader cannot use it: image_url must be" in job["error"]["message"]


NUMBER = {"type": "number", "reference": "{{item.answer}}"}
MATH = {"type": "math", "reference": "{{item.answer}}"}
GYM = {"type": "reasoning_gym", "task": "word_sorting"}
SORTED = {"answer": "a, b", "metadata": {"sorted_words": ["a", "b"]}}
NOT_SORTED = {"answer": "a, b", "metadata": {}}


@pytest.mark.parametrize(
    ("grader", "good", "bad", "sentence"),
    [
        (NUMBER, {"answer": "1,024.5"}, {"answer": "many"}, "'many' is not a number"),
        (NUMBER, {"answer": 7}, {"answer": None}, "'null' is not a number"),
        (MATH, {"answer": "2x + 1"}, {"answer": "???"}, "holds no mathematics: '???'"),
        pytest.param(GYM, SORTED, NOT_SORTED, "it is no entry of word_sorting", marks=needs_cage),
    ],
    ids=["number", "number-null", "math", "gym"],
)
def test_a_row_that_the_grader_can_never_use_is_named(
    submit: Submit,
    grader: dict[str, Any],
    good: dict[str, Any],
    bad: dict[str, Any],
    sentence: str,
) -> None:
    both = {"type": "multi", "graders": {"a": grader}, "calculate_output": "a"}
    rows = [row(**good)] * 60
    rows[51] = row(**bad)
    for wanted in (grader, both):
        job = submit(jsonl(*rows), grader=wanted)
        assert (job["status"], job["error"]["code"]) == ("failed", "invalid_training_file")
        message = job["error"]["message"]
        assert "line 52: the grader cannot use it: " in message
        assert sentence in message
        assert "1 row cannot be used" in message
    assert submit(jsonl(*[row(**good)] * 8), grader=grader)["status"] == "queued"


def test_a_reference_that_the_answer_decides_is_not_judged_before_there_is_one(
    submit: Submit,
) -> None:
    for kind in ("number", "math"):
        grader = {"type": kind, "reference": "{{sample.output_text}}"}
        assert submit(jsonl(*[row()] * 8), grader=grader)["status"] == "queued"


def test_a_judge_of_this_machine_counts_in_the_jobs_memory(
    submit: Submit, sessions: sessionmaker[Session]
) -> None:
    messages = [{"role": "user", "content": "{{sample.output_text}}"}]
    judged = {"type": "score_model", "model": "honed/starter", "input": messages}
    graders = []
    for grader in (GRADER, judged):
        job = submit(jsonl(*[row()] * 8), grader=grader)
        with sessions() as session:
            kept = session.get_one(Job, job["id"])
        parts = kept.resolved["memory"]["cpu"]
        assert kept.memory_cpu_bytes == parts["least"] <= parts["total"]
        graders.append(parts["graders"])
    weights = (STARTER_FOLDER / "model.safetensors").stat().st_size
    assert graders[0] == 0
    assert graders[1] >= weights


def test_a_model_without_chat_template_is_refused(submit: Submit, model_folder: Path) -> None:
    shutil.copytree(STARTER_FOLDER, model_folder, dirs_exist_ok=True)
    (model_folder / "chat_template.jinja").unlink()

    job = submit(jsonl(row()), model=str(model_folder))

    assert job["error"]["code"] == "model_not_available"
    assert "chat template" in job["error"]["message"]


def test_a_cancelled_job_is_not_brought_back(
    submit: Submit,
    client: TestClient,
    settings: ServiceSettings,
    sessions: sessionmaker[Session],
) -> None:
    job = submit(jsonl(*[row()] * 8))
    client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")

    validate(job["id"], settings, sessions)

    assert client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["status"] == "cancelled"
