"""label_model, several judges in one multi, and what is refused of judged graders."""

import json
import threading
from typing import Any

import pytest
from court import MESSAGES, SCORE
from peer_server import Asked, Says, verdict

from jobs.graders import GraderInvalid, parse_grader
from jobs.graders.grade import Usage
from jobs.graders.settings import GraderSettings

LABEL = {
    "type": "label_model",
    "model": "strict",
    "input": MESSAGES,
    "labels": ["good", "fair", "bad"],
    "passing_labels": ["good", "fair"],
}


def in_multi(**graders: Any) -> dict[str, Any]:
    return {"type": "multi", "graders": graders, "calculate_output": " + ".join(graders)}


@pytest.mark.parametrize(("label", "reward"), [("good", 1.0), ("fair", 1.0), ("bad", 0.0)])
def test_label_model_pays_for_passing_labels(court: Any, label: str, reward: float) -> None:
    here = court(lambda asked: Says(verdict(label)))
    assert here.grade(in_multi(tone=LABEL)).reward == reward
    schema = here.peer.asked[0].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["result"]["enum"] == ["good", "fair", "bad"]


def test_a_label_off_the_list_is_a_parse_error(court: Any) -> None:
    grade = court(lambda asked: Says(verdict("splendid"))).grade(in_multi(tone=LABEL))
    assert grade.errors == {"model_grader_parse_error"}
    assert "splendid" in grade.error_detail


def test_components_that_wait_do_so_side_by_side(court: Any) -> None:
    """Both judges must be asked before either answers."""
    both = threading.Barrier(2, timeout=10)

    def judge(asked: Asked) -> Says:
        both.wait()
        return Says(verdict(1, tokens=(10, 1, 0)))

    second = {**SCORE, "input": [{"role": "user", "content": "Another question"}]}
    here = court(judge, timeout_seconds=15)
    grade = here.grade(in_multi(a=SCORE, b=second))
    assert grade.reward == 2.0
    assert grade.usage == {"strict": Usage(2, 20, 2, 0)}
    assert set(grade.parts) == {"a", "b"}


@pytest.mark.parametrize(
    ("definition", "param", "words"),
    [
        ({**SCORE, "model": "lenient"}, "model", "the judges are strict"),
        (LABEL, "type", "only inside a multi"),
        ({**SCORE, "range": [1, 0]}, "range", "not below"),
        ({**SCORE, "input": []}, "input", "must not be empty"),
        ({**SCORE, "input": [{"role": "robot", "content": ""}]}, "input.0.role", "robot"),
        ({**SCORE, "input": [{"role": "user", "content": "{{sample.x}}"}]}, "input.0.content",
         "sample.x does not exist"),
        ({**SCORE, "sampling_params": {"top_k": 1}}, "sampling_params.top_k",
         "the fields here are seed, top_p"),
        (in_multi(a={**LABEL, "passing_labels": ["x"]}), "graders.a.passing_labels", "not one of"),
    ],
)  # fmt: skip
def test_refused(court: Any, definition: dict[str, Any], param: str, words: str) -> None:
    means = court(lambda asked: Says(verdict(1))).means
    with pytest.raises(GraderInvalid, match=words) as refused:
        parse_grader(definition, means)
    assert refused.value.param == param


def test_without_judges_the_refusal_says_who_can_name_one() -> None:
    with pytest.raises(GraderInvalid, match="HONED_JUDGES"):
        parse_grader(SCORE)


def test_the_rows_fields_are_found_in_messages(court: Any) -> None:
    grader = parse_grader(SCORE, court(lambda asked: Says(verdict(1))).means)
    assert grader.missing_item_paths({}) == ["question"]


def test_settings_can_be_a_file_and_their_faults_are_told(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "judges.json"
    path.write_text('{"mine": {"base_url": "http://localhost:1/v1"}}')
    monkeypatch.setenv("HONED_JUDGES", str(path))
    assert list(GraderSettings().judges) == ["mine"]
    monkeypatch.setenv("HONED_JUDGES", str(tmp_path / "nowhere.json"))
    with pytest.raises(ValueError, match="cannot be read"):
        GraderSettings()
    for fault, words in [
        ({"base_url": "localhost"}, "pattern"),
        (
            {"base_url": "http://x/v1", "api_key_env": "NOT_SET"},
            r"mine\n.* api_key_env names is not set",
        ),
        ({"base_url": "http://x/v1", "api_key": "sk"}, "api_key"),
    ]:
        monkeypatch.setenv("HONED_JUDGES", json.dumps({"mine": fault}))
        with pytest.raises(ValueError, match=words):
            GraderSettings()
