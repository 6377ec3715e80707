"""Every example of docs/graders.md gives the reward that it claims."""

import json
import re
from pathlib import Path

import pytest

from jobs.graders import GRADER_TYPES, Sample, parse_grader

DOCS = Path(__file__).parents[3] / "docs" / "graders.md"
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.S)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["grader"]["type"])
def test_example_gives_its_reward(example: dict) -> None:
    grade = parse_grader(example["grader"]).grade(Sample(**example["sample"]), example["item"])
    assert grade.errors == frozenset()
    assert grade.reward == pytest.approx(example["reward"], abs=1e-12)


def test_every_type_has_an_example_and_a_section_with_all_its_fields() -> None:
    assert {example["grader"]["type"] for example in EXAMPLES} == set(GRADER_TYPES)
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.S | re.M))
    for kind, spec in GRADER_TYPES.items():
        undocumented = [
            field
            for field in spec.model_fields
            if field not in ("type", "name") and f"`{field}`" not in sections[kind]
        ]
        assert undocumented == [], kind
