"""Rows as the model reads them, with what a job asks beside them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.datasets import Row
from jobs.errors import JobFailure
from jobs.registry import STARTER_FOLDER
from jobs.response_format import ResponseFormat
from jobs.status import Reason
from worker.grading import Grading
from worker.grpo.types import Prompt, Rollout
from worker.prompts import PromptRenderer

USER = {"role": "user", "content": "2 + 3?"}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
FORMAT = ResponseFormat.model_validate(
    {"type": "json_schema", "name": "n", "schema": SCHEMA, "description": "a number"}
)
THINKS = """
{%- for message in messages %}{{ message['role'] + ':' + message['content'] + '|' }}{% endfor %}
{%- if enable_thinking is defined and enable_thinking %}{{ '<think>' }}{% endif %}"""


@pytest.fixture
def thinker(tmp_path: Path) -> Path:
    """The starter's tokenizer with a template that has a switch."""
    folder = tmp_path / "thinker"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER_FOLDER / name, folder)
    (folder / "chat_template.jinja").write_text(THINKS)
    return folder


def text(renderer: PromptRenderer, *messages: dict[str, Any]) -> str:
    return str(renderer.tokenizer.decode(renderer.ids(list(messages))))


def test_the_effort_sets_the_templates_switch(thinker: Path) -> None:
    assert text(PromptRenderer(thinker), USER) == "user:2 + 3?|"
    thinking = PromptRenderer(thinker, reasoning_effort="low")
    assert text(thinking, USER) == "user:2 + 3?|<think>"


def test_an_effort_that_cannot_be_honoured_ends_the_job() -> None:
    with pytest.raises(JobFailure, match="no thinking switch") as caught:
        PromptRenderer(STARTER_FOLDER, reasoning_effort="low")
    assert caught.value.reason == Reason.INVALID_HYPERPARAMETERS
    assert caught.value.param == "method.reinforcement.hyperparameters.reasoning_effort"


def test_the_schema_stands_before_the_model(thinker: Path) -> None:
    renderer = PromptRenderer(thinker, response_format=FORMAT)
    schema = '{"type":"object","properties":{"n":{"type":"integer"}}}'
    told = f"Answer with JSON of this schema (a number) and nothing else:\n{schema}"
    assert text(renderer, USER) == f"system:{told}|user:2 + 3?|"
    system = {"role": "developer", "content": "Be brief."}
    assert text(renderer, system, USER) == f"system:Be brief.\n\n{told}|user:2 + 3?|"
    plain = PromptRenderer(thinker, response_format=ResponseFormat(type="text"))
    assert text(plain, USER) == "user:2 + 3?|"


@pytest.mark.parametrize(
    ("answer", "parsed"),
    [('{"n": 5}', {"n": 5}), (" [1]\n", [1]), ("5", 5), ("five", None), ('{"n": NaN}', None)],
)
def test_graders_read_the_parsed_answer(thinker: Path, answer: str, parsed: Any) -> None:
    class Recording:
        """A grader that keeps the sample it was given."""

        is_group_aware = False
        concurrency = 1

        def grade(self, sample: Any, item: Any) -> Any:
            self.sample = sample
            raise LookupError

    for response_format, expected in ((FORMAT, parsed), (None, None)):
        renderer = PromptRenderer(thinker, response_format=response_format)
        recording = Recording()
        grading = Grading(recording, renderer)  # type: ignore[arg-type]
        ids = list(renderer.tokenizer.encode(answer))
        prompt = Prompt(0, renderer.ids([USER]), payload=Row(1, [USER], {}))
        rollout = Rollout(0, 0, ids, [0.0] * len(ids), "stop", [True] * len(ids))
        with pytest.raises(LookupError):
            grading.submit(prompt, rollout).result(timeout=30)
        grading.close()
        assert recording.sample.output_text == answer
        assert recording.sample.output_json == expected


def test_reasoning_is_apart_from_the_json(thinker: Path) -> None:
    renderer = PromptRenderer(thinker, response_format=FORMAT, reasoning_effort="high")
    ids = list(renderer.tokenizer.encode('two and three</think>\n\n{"n": 5}'))
    done = renderer.completion(renderer.ids([USER]), ids, is_cut=False)
    assert (done.reasoning_text, done.output_json) == ("two and three", {"n": 5})
