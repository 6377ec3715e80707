"""python graders over HTTP: OpenAI's flags and fields, and what is said of the isolation."""

from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient

from jobs.graders.sandbox import pools
from jobs.graders.sandbox.answers import SandboxLost
from jobs.graders.sandbox.process import Sandbox

GRADERS = "/v1/fine_tuning/alpha/graders"
LENGTH = "def grade(sample, item):\n    return len(sample['output_text']) / item['most']\n"


def run(client: TestClient, source: str, text: str = "four", **item: Any) -> dict[str, Any]:
    answer = client.post(
        f"{GRADERS}/run",
        json={
            "grader": {"type": "python", "name": "mine", "source": source, "cpu_seconds": 0.3},
            "model_sample": text,
            "item": item,
        },
    )
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_a_job_may_carry_several_large_sources(client: TestClient, body: dict[str, Any]) -> None:
    source = LENGTH + "# " + "x" * (249_000 - len(LENGTH))
    parts = {f"p{n}": {"type": "python", "name": f"p{n}", "source": source} for n in range(5)}
    grader = {"type": "multi", "graders": parts, "calculate_output": " + ".join(parts)}
    body["method"]["reinforcement"]["grader"] = grader
    answer = client.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text


def test_a_reward_above_one_is_not_clamped(client: TestClient) -> None:
    result = run(client, LENGTH, most=2)
    assert result["reward"] == 2.0
    assert result["metadata"]["type"] == "python"
    assert not any(result["metadata"]["errors"].values())


def test_an_exception_is_a_zero_a_flag_and_a_traceback(client: TestClient) -> None:
    result = run(client, LENGTH)
    errors = result["metadata"]["errors"]
    assert result["reward"] == 0.0
    assert errors["python_grader_runtime_error"]
    assert errors["python_grader_runtime_error_details"].endswith("KeyError: 'most'")
    assert "line 2, in grade" in errors["python_grader_runtime_error_details"]
    assert not errors["python_grader_server_error"]
    assert errors["python_grader_server_error_type"] is None


def test_a_number_that_is_none_is_a_runtime_error(client: TestClient) -> None:
    errors = run(client, "def grade(s, i): return float('nan')")["metadata"]["errors"]
    assert errors["python_grader_runtime_error"]
    assert "finite number" in errors["python_grader_runtime_error_details"]


def test_a_timeout_is_a_server_error_with_its_type(client: TestClient) -> None:
    result = run(client, "def grade(s, i):\n    while True: pass")
    errors = result["metadata"]["errors"]
    assert (result["reward"], errors["python_grader_server_error_type"]) == (0.0, "timeout")
    assert errors["python_grader_server_error"]
    assert not errors["python_grader_runtime_error"]
    assert "0.3 s of CPU" in result["metadata"]["error_details"]


def test_inside_a_multi_the_component_keeps_its_details(client: TestClient) -> None:
    grader = {
        "type": "multi",
        "graders": {
            "mine": {"type": "python", "source": "def grade(s, i): return 1 / 0"},
            "short": {"type": "length", "unit": "words", "max": 3},
        },
        "calculate_output": "mine + short",
    }
    body = {"grader": grader, "model_sample": "x", "item": {}}
    result = client.post(f"{GRADERS}/run", json=body).json()
    details = result["metadata"]["errors"]["python_grader_runtime_error_details"]
    assert details.endswith("ZeroDivisionError: division by zero")
    assert result["sub_rewards"] == {"mine": None, "short": 1.0}


def test_validate_shows_the_limits_in_force(client: TestClient) -> None:
    body = {"grader": {"type": "python", "source": LENGTH, "image_tag": "2025-05-08"}}
    answer = client.post(f"{GRADERS}/validate", json=body)
    assert answer.json()["grader"] == {
        "type": "python",
        "name": "python",
        "source": LENGTH,
        "image_tag": "2025-05-08",
        "cpu_seconds": 5.0,
        "wall_seconds": 15.0,
        "memory_mb": 2048,
    }
    assert answer.json()["warnings"] == []


EXECUTES = "def grade(sample, item):\n    exec(sample['output_text'], {})\n    return 1.0\n"
HIDES = "import builtins\n" + EXECUTES.replace("exec(", "getattr(builtins, 'ex' + 'ec')(")


def test_a_grader_that_runs_completions_is_warned_of(client: TestClient) -> None:
    grader = {"type": "python", "source": EXECUTES}
    (warning,) = client.post(f"{GRADERS}/validate", json={"grader": grader}).json()["warnings"]
    assert "line 2 (exec)" in warning
    assert "run_code(text)" in warning
    assert run(client, EXECUTES, "1")["metadata"]["warnings"] == [warning]
    hidden = run(client, HIDES, "1")["metadata"]
    assert "compiled or ran a text as Python" in hidden["warnings"][0]
    assert hidden["incidents"] == {"ran_text_as_code": 1}
    multi = {"type": "multi", "graders": {"p": grader}, "calculate_output": "p"}
    answer = client.post(f"{GRADERS}/validate", json={"grader": multi}).json()
    assert answer["warnings"] == [f"graders.p: {warning}"]


def test_no_sandbox_to_be_had_is_a_503_that_says_when(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"grader": {"type": "python", "source": LENGTH + "# never loaded"}}
    monkeypatch.setattr(pools, "MAX_POOLS", 0)
    monkeypatch.setattr(pools, "_BUSY_SECONDS", 0.1)
    answer = client.post(f"{GRADERS}/validate", json=body)
    assert error_of(answer, 503)["code"] == "too_many_graders"
    assert answer.headers["Retry-After"] == "5"

    def dies(sandbox: Sandbox, *_: Any, **__: Any) -> None:
        sandbox.close()
        raise SandboxLost(was_running=False)

    monkeypatch.setattr(pools, "MAX_POOLS", 8)
    monkeypatch.setattr(Sandbox, "load", dies)
    answer = client.post(f"{GRADERS}/validate", json=body)
    assert error_of(answer, 503)["code"] == "sandbox_lost"
    assert answer.headers["Retry-After"] == "5"


@pytest.mark.parametrize("is_in_multi", [False, True], ids=["alone", "in a multi"])
def test_without_isolation_python_is_refused_at_every_door(
    client: TestClient, body: dict[str, Any], no_isolation: None, is_in_multi: bool
) -> None:
    grader: dict[str, Any] = {"type": "python", "source": LENGTH}
    if is_in_multi:
        grader = {"type": "multi", "graders": {"a": grader}, "calculate_output": "a"}
    body["method"]["reinforcement"]["grader"] = grader
    one = {"model_sample": "x", "item": {}}
    for path, asked in (
        ("/v1/fine_tuning/jobs", body),
        (f"{GRADERS}/validate", {"grader": grader}),
        (f"{GRADERS}/run", {"grader": grader, **one}),
        (f"{GRADERS}/run", {"grader": grader, "samples": [one]}),
    ):
        answer = client.post(path, json=asked)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (
            503, "no_isolation", "server_error",
        )  # fmt: skip
        assert answer.headers["x-should-retry"] == "false", "no client waits for an installation"
        assert "Python graders are off" in error["message"]
        assert "Install bubblewrap" in error["message"]
        assert "HONED_UNSAFE_PYTHON_GRADERS" in error["message"]
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []
