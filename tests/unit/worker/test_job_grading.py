"""A worker's own settings, when they are at fault: told to its operator, kept from its tenants."""

import json
import logging

import pytest

from jobs.errors import JobFailure
from jobs.graders.settings import GraderSettings
from jobs.settings import Settings
from jobs.status import Reason
from worker.grader_models import TrainerModels
from worker.job_grading import means_here

SECRET = "sk-hush-0123456789"
AT = {"base_url": "https://judge.example/v1"}
FAULTS = {
    "a field that does not exist": {"HONED_JUDGES": json.dumps({"a": {**AT, "api_key": SECRET}})},
    "a key for a variable's name": {
        "HONED_JUDGES": json.dumps({"a": {**AT, "api_key_env": SECRET}})
    },
    "a key in the URL": {"HONED_JUDGES": json.dumps({"a": {"base_url": f"https://{SECRET}@x/"}})},
    "JSON that is cut off": {"HONED_JUDGES": f'{{"a": {{"api_key": "{SECRET}"'},
    "JSON of another kind": {"HONED_JUDGES": json.dumps([SECRET])},
    "an embedding service": {"HONED_EMBEDDINGS": json.dumps({**AT, "api_key": SECRET})},
    "a signing secret": {"HONED_ENDPOINT_SECRET": SECRET},
}


@pytest.mark.parametrize("variables", FAULTS.values(), ids=FAULTS)
def test_no_secret_is_told_of_settings_that_cannot_be_used(
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.DEBUG), pytest.raises(JobFailure) as failed:
        means_here(TrainerModels(Settings()))
    assert failed.value.reason == Reason.GRADER_FAILED
    assert failed.value.message.startswith("This worker's settings for graders cannot be used")
    assert SECRET not in failed.value.message
    (field,) = (name.removeprefix("HONED_").lower() for name in variables)
    assert field in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("variables", FAULTS.values(), ids=FAULTS)
def test_a_service_that_does_not_start_for_them_says_no_secret_either(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="GraderSettings") as failed:
        GraderSettings()
    assert SECRET not in str(failed.value)
