"""Bad bodies of a new job: each answered with the field and what to do."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient

from jobs.store.projects import IssuedKey

Body = dict[str, Any]
JOBS = "/v1/fine_tuning/jobs"


def change(body: Body, **values: Any) -> Body:
    changed = copy.deepcopy(body)
    for dotted, value in values.items():
        *parents, last = dotted.split("__")
        place = changed
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return changed


HYPER = "method__reinforcement__hyperparameters"
HYPER_PATH = "method.reinforcement.hyperparameters"
GRADER = "method__reinforcement__grader"
GRADER_PATH = "method.reinforcement.grader"
FORMAT = "method__reinforcement__response_format"
FORMAT_PATH = "method.reinforcement.response_format"

REFUSED: list[tuple[Body, str, str]] = [
    # unknown fields
    ({"colour": "red"}, "colour", "Unknown parameter: 'colour'"),
    ({"trainingfile": "x"}, "trainingfile", "Unknown parameter"),
    ({f"{HYPER}__num_generations": 8}, f"{HYPER_PATH}.num_generations", "`group_size` here"),
    ({f"{HYPER}__group_sise": 8}, f"{HYPER_PATH}.group_sise", "Did you mean `group_size`?"),
    ({f"{HYPER}__lora__r": 8}, f"{HYPER_PATH}.lora.r", "`lora.rank` here"),
    ({"method__extra": 1}, "method.extra", "Unknown parameter"),
    # limits and grader errors
    ({"limits": {}}, "limits", "it bounds nothing"),
    ({"limits": {"max_seconds": 0}}, "limits.max_seconds", "greater than 0"),
    ({"limits": {"max_dollars": 5}}, "limits.max_dollars", "Unknown parameter"),
    ({"limits": {"max_judge_requests": 5}}, "limits.max_judge_requests", "asks none"),
    ({f"{HYPER}__on_grader_error": "skip"}, f"{HYPER_PATH}.on_grader_error", "'drop'"),
    ({f"{HYPER}__on_grader_error": "0.5"}, f"{HYPER_PATH}.on_grader_error", "'0.5'"),
    ({f"{HYPER}__max_grader_error_ratio": 0}, f"{HYPER_PATH}.max_grader_error_ratio", "than 0"),
    # wrong types
    ({"suffix": 3}, "suffix", "string"),
    ({"suffix": ""}, "suffix", "at least 1"),
    ({"suffix": "x" * 65}, "suffix", "at most 64"),
    ({"suffix": "a\nb"}, "suffix", "printable"),
    ({"seed": "1"}, "seed", "integer"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 2**31}, "seed", "less than or equal to"),
    ({"seed": True}, "seed", "integer"),
    ({"metadata": {"a": 1}}, "metadata.a", "string"),
    ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "at most 16"),
    ({"priority": 101}, "priority", "less than or equal to 100"),
    ({"priority": -101}, "priority", "greater than or equal to -100"),
    ({"priority": 1.0}, "priority", "integer"),
    ({"model": ""}, "model", "at least 1"),
    ({"model": None}, "model", "string"),
    ({"training_file": None}, "training_file", "string"),
    ({"method": "grpo"}, "method", "dictionary"),
    ({"method": {"type": "supervised", "supervised": {}}}, "method.type", "not offered"),
    ({"method": {"type": "grpo"}}, "method.type", "'reinforcement'"),
    ({"method": {"type": "reinforcement"}}, "method.reinforcement", "missing"),
    ({f"{HYPER}__group_size": 1}, f"{HYPER_PATH}.group_size", "greater than or equal to 2"),
    ({f"{HYPER}__group_size": "8"}, f"{HYPER_PATH}.group_size", "integer"),
    (
        {f"{HYPER}__learning_rate_multiplier": "2"},
        f"{HYPER_PATH}.learning_rate_multiplier",
        "valid number",
    ),
    ({f"{HYPER}__temperature": "1"}, f"{HYPER_PATH}.temperature", "valid number"),
    ({f"{HYPER}__batch_size": 2.5}, f"{HYPER_PATH}.batch_size", "integer"),
    (
        {f"{HYPER}__n_epochs": 51},
        f"{HYPER_PATH}.n_epochs",
        "less than or equal to 50, unless max_steps",
    ),
    ({f"{HYPER}__loss_type": "ppo"}, f"{HYPER_PATH}.loss_type", "'dapo'"),
    ({f"{HYPER}__kl_coef": -0.1}, f"{HYPER_PATH}.kl_coef", "greater than or equal to 0"),
    ({f"{HYPER}__temperature": 0}, f"{HYPER_PATH}.temperature", "0.1"),
    ({f"{HYPER}__lora__dropout": 0.1}, f"{HYPER_PATH}.lora", "dropout must be 0"),
    ({HYPER: [1]}, HYPER_PATH, "dictionary"),
    # impossible together
    (
        {f"{HYPER}__learning_rate": 1e-4, f"{HYPER}__learning_rate_multiplier": 2},
        HYPER_PATH,
        "keep one",
    ),
    ({f"{HYPER}__group_size": 4, f"{HYPER}__compute_multiplier": 2}, HYPER_PATH, "keep one"),
    ({f"{HYPER}__clip_eps_low": 0.3}, HYPER_PATH, "below clip_eps_low"),
    # graders
    ({GRADER: {"type": "magic"}}, f"{GRADER_PATH}.type", "unknown grader type 'magic'"),
    ({GRADER: {"type": "python", "source": "x"}}, f"{GRADER_PATH}.source", "NameError"),
    (
        {
            GRADER: {
                "type": "multi",
                "graders": {"a": {"type": "python", "source": "x ="}},
                "calculate_output": "a",
            }
        },
        f"{GRADER_PATH}.graders.a.source",
        "SyntaxError",
    ),
    ({GRADER: {}}, f"{GRADER_PATH}.type", "needs a type"),
    ({f"{GRADER}__operation": "is"}, f"{GRADER_PATH}.operation", "'eq'"),
    ({f"{GRADER}__input": "{{nothing.here}}"}, f"{GRADER_PATH}.input", "not a variable"),
    ({GRADER: "exact"}, GRADER_PATH, "dictionary"),
    # what OpenAI's body has and this server does not serve
    ({"integrations": [{"type": "wandb"}]}, "integrations", "(wandb) was refused"),
    ({"method__reinforcement__tools": [{}]}, "method.reinforcement.tools", "without tools"),
    (
        {"method__reinforcement__max_episode_steps": 3},
        "method.reinforcement.max_episode_steps",
        "without tools",
    ),
    ({"hyperparameters": {"group_size": 3}}, "hyperparameters.group_size", "go into method"),
    ({"hyperparameters": [3]}, "hyperparameters", "must be an object"),
    (
        {"hyperparameters": {"n_epochs": 3}, f"{HYPER}__n_epochs": 4},
        "hyperparameters.n_epochs",
        "is 3 and method.reinforcement.hyperparameters.n_epochs is 4",
    ),
    (
        {"hyperparameters": {"n_epochs": 51}},
        f"{HYPER_PATH}.n_epochs",
        "less than or equal to 50, unless max_steps",
    ),
    (
        {"model": "honed/starter", f"{HYPER}__reasoning_effort": "medium"},
        f"{HYPER_PATH}.reasoning_effort",
        "no thinking switch",
    ),
    ({f"{HYPER}__reasoning_effort": "max"}, f"{HYPER_PATH}.reasoning_effort", "'high'"),
    # the answer's form
    ({f"{FORMAT}__type": "xml"}, f"{FORMAT_PATH}.type", "'json_schema'"),
    ({f"{FORMAT}__type": "json_schema"}, FORMAT_PATH, "json_schema is given with"),
    (
        {FORMAT: {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}}},
        f"{FORMAT_PATH}.json_schema.schema",
        "no JSON schema",
    ),
    (
        {FORMAT: {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
        f"{FORMAT_PATH}.json_schema.name",
        "pattern",
    ),
]


@pytest.mark.parametrize(("changes", "param", "sentence"), REFUSED)
def test_a_bad_body_names_the_field(
    client: TestClient, body: Body, changes: Body, param: str, sentence: str
) -> None:
    error = error_of(client.post(JOBS, json=change(body, **changes)), 400)
    assert error["param"] == param
    assert sentence in error["message"]
    assert client.get(JOBS).json()["data"] == []


@pytest.mark.parametrize("field", ["model", "training_file", "method"])
def test_a_missing_field_is_named(client: TestClient, body: Body, field: str) -> None:
    del body[field]
    error = error_of(client.post(JOBS, json=body), 400)
    assert error["param"] == field
    assert "missing" in error["message"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b"null", "JSON object"),
        (b'{"model": NaN}', "NaN"),
        (b'{"model": 1e999}', "too large"),
        (b'{"model": "\\ud800"}', "surrogate"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b"9" * 5000, "not JSON"),
    ],
)
def test_a_body_that_is_no_json(client: TestClient, content: bytes, word: str) -> None:
    response = client.post(JOBS, content=content, headers={"Content-Type": "application/json"})
    assert word in error_of(response, 400)["message"]


def test_a_body_too_large(client: TestClient, body: Body) -> None:
    body["metadata"] = {"a": "x" * 2**23}
    error = error_of(client.post(JOBS, json=body), 413)
    assert error["code"] == "body_too_large"


@pytest.mark.parametrize("field", ["training_file", "validation_file"])
def test_an_unknown_file_is_named(client: TestClient, body: Body, field: str) -> None:
    body[field] = "file-none"
    error = error_of(client.post(JOBS, json=body), 404)
    assert error["param"] == field
    assert "file-none" in error["message"]


def test_a_file_of_another_project_is_unknown(
    client: TestClient, body: Body, other_key: IssuedKey
) -> None:
    client.headers["Authorization"] = f"Bearer {other_key.secret}"
    assert error_of(client.post(JOBS, json=body), 404)["param"] == "training_file"


def test_a_file_of_another_purpose_is_refused(
    client: TestClient, body: Body, upload: Callable[..., str]
) -> None:
    body["validation_file"] = upload(purpose="evals")
    error = error_of(client.post(JOBS, json=body), 400)
    assert (error["param"], "fine-tune" in error["message"]) == ("validation_file", True)


@pytest.mark.parametrize(
    "name", ["gpt-4o", "honed/none", "ft:honed/starter:p::x", "/etc", "org/", "../../x", "a b/c"]
)
def test_an_unknown_model(client: TestClient, body: Body, name: str) -> None:
    error = error_of(client.post(JOBS, json={**body, "model": name}), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_a_model_folder_without_safetensors(
    client: TestClient, body: Body, model_folder: Path
) -> None:
    (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
    error = error_of(client.post(JOBS, json=body), 400)
    assert error["code"] == "model_without_safetensors"
    assert "save_pretrained" in error["message"]


RANKS = "def grade_group(samples, item):\n    return [0.0 for sample in samples]\n"
ALONE = "\ndef grade(sample, item):\n    return 0.0\n"


def test_a_grader_that_only_ranks_cannot_stop_a_job_early(client: TestClient, body: Body) -> None:
    asked = change(body, **{f"{HYPER}__early_stopping_patience": 2})
    grader = {"type": "python", "source": RANKS}
    error = error_of(client.post(JOBS, json=change(asked, **{GRADER: grader})), 400)
    assert error["param"] == f"{HYPER_PATH}.early_stopping_patience"
    assert "only ranks" in error["message"]
    both = {"type": "python", "source": RANKS + ALONE}
    assert client.post(JOBS, json=change(asked, **{GRADER: both})).status_code == 200
    assert client.post(JOBS, json=change(body, **{GRADER: grader})).status_code == 200
