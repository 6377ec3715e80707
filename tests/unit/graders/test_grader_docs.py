"""Every example of docs/graders.md gives the reward that it claims; the schemas are kept."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.graders import GRADER_TYPES, Means, Sample, parse_grader
from jobs.graders.calling import Caller
from jobs.graders.offload.pool import Offload
from jobs.graders.ports import Answer, Question
from jobs.graders.reasoning_gym import unavailable
from jobs.graders.schema import rendered
from jobs.outbound import Outbound

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "graders.md").read_text()
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.S)]


class Saying(Caller):
    """Judge, endpoint and model that say what the example has them say."""

    concurrency = 1

    def __init__(self, says: Any) -> None:
        super().__init__(Outbound())
        self.says = says

    def ask(self, question: Question, *, sending: Any) -> Answer:
        sending()
        return Answer(text=json.dumps(self.says), model="judge")

    def post(self, *_: Any, **__: Any) -> Any:
        return self.says

    def serves(self, model: str) -> bool:
        return True

    def score(self, model: str, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[Any]:
        return [self.says for _ in conversations]


@pytest.fixture(scope="module")
def offload() -> Iterator[Offload]:
    offload = Offload(1)
    yield offload
    offload.close()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["grader"]["type"])
def test_example_gives_its_reward(example: dict[str, Any], offload: Offload) -> None:
    problem = unavailable() if example["grader"]["type"] == "reasoning_gym" else None
    if problem:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    other: Any = Saying(example.get("says"))
    means = Means(judges={"gpt-4o-mini": other}, caller=other, models=other, offload=offload)
    grader = parse_grader(example["grader"], means)
    grade = grader.grade(Sample(**example["sample"]), example["item"])
    assert grade.errors == frozenset(), grade.error_detail
    assert grade.reward == pytest.approx(example["reward"], abs=1e-12)


def test_every_type_has_an_example_and_a_section_with_all_its_fields() -> None:
    shown = {example["grader"]["type"] for example in EXAMPLES}
    parts = [part for example in EXAMPLES for part in example["grader"].get("graders", {}).values()]
    assert shown | {part["type"] for part in parts} == set(GRADER_TYPES)
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M))
    for kind, spec in GRADER_TYPES.items():
        undocumented = [
            field
            for field in spec.model_fields
            if field not in ("type", "name") and f"`{field}`" not in sections[kind]
        ]
        assert undocumented == [], kind


def test_the_kept_schemas_are_the_codes() -> None:
    kept = (DOCS / "graders.schema.json").read_text()
    assert kept == rendered(), "run `make openapi`"
    assert len(json.loads(kept)["$defs"]) >= len(GRADER_TYPES)
