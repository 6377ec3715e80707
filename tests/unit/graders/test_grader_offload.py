"""Graders whose work is done in worker processes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym

from jobs.graders import GraderInvalid, Means, Sample, parse_grader
from jobs.graders.offload import cage
from jobs.graders.offload.pool import Offload

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def means() -> Iterator[Means]:
    """One process for the module: each takes a second to import what it needs."""
    means = Means(offload=Offload(1))
    yield means
    means.close()


def reward(means: Means, definition: dict[str, Any], text: str, **item: Any) -> float | None:
    grade = parse_grader(definition, means).grade(Sample(output_text=text), item)
    assert not grade.errors, grade.error_detail
    return grade.reward


def similarity(metric: str) -> dict[str, Any]:
    return {
        "type": "text_similarity",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference}}",
        "evaluation_metric": metric,
    }


CAT, MAT = "the cat sat on the mat", "the cat is on the mat"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # By hand, for CAT against MAT, 6 words each. Unigrams 5/6, bigrams 3/5, trigrams 1/4,
        # no 4-gram, which sacrebleu smooths to 1/(2*3).
        ("bleu", (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25),
        # 5 + 3 + 1 + 0 of 6 + 5 + 4 + 3 n-grams.
        ("gleu", 9 / 18),
        # P = R = 5/6 in two chunks: (1 - 0.5 (2/5)^3) 5/6.
        ("meteor", (1 - 0.5 * (2 / 5) ** 3) * 5 / 6),
        ("rouge_1", 5 / 6),
        ("rouge_2", 3 / 5),
        ("rouge_3", 1 / 4),
        ("rouge_4", 0.0),
        ("rouge_5", 0.0),
        ("rouge_l", 5 / 6),
    ],
)
def test_similarity_by_hand(means: Means, metric: str, expected: float) -> None:
    assert reward(means, similarity(metric), CAT, reference=MAT) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["bleu", "gleu", "meteor", "rouge_1", "rouge_l"])
def test_similarity_ends(means: Means, metric: str) -> None:
    assert reward(means, similarity(metric), "", reference="a b") == 0.0
    assert reward(means, similarity(metric), " ", reference="") == 1.0
    words = "one two three four five six seven"
    assert reward(means, similarity(metric), words, reference=words) == pytest.approx(1.0, abs=2e-3)


MATH = {"type": "math", "reference": "{{item.answer}}"}


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        (r"So it is $\frac{1}{2}$.", "0.5", 1.0),
        (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", 1.0),
        ("The answer is 1/2", r"\frac{1}{2}", 1.0),
        ("$x^2 + 2x + 1$", "$(x+1)^2$", 1.0),
        ("the set $\\{2, 1\\}$", "$\\{1,2\\}$", 1.0),
        ("It is 41", 42, 0.0),
        ("I do not know", "42", 0.0),
        ("", "42", 0.0),
    ],
)
def test_math(means: Means, text: str, answer: Any, expected: float) -> None:
    assert reward(means, MATH, text, answer=answer) == expected


def test_a_reference_that_is_no_mathematics_is_the_rows_fault(means: Means) -> None:
    grade = parse_grader(MATH, means).grade(Sample(output_text="1"), {"answer": "???"})
    assert grade.errors == {"invalid_variable_error"}


def test_many_references_are_asked_about_together_and_one_that_kills_is_found(
    means: Means,
) -> None:
    grader = parse_grader(MATH, means)
    answers = [str(n) for n in range(70)]
    answers[3], answers[60] = "???", "9" * 40 + "**9" * 9
    problems = grader.row_problems([{"answer": answer} for answer in answers])
    assert [place for place, problem in enumerate(problems) if problem] == [3], problems
    assert grader.row_problems([]) == []


def test_mathematics_without_end_is_stopped_and_the_next_is_graded(means: Means) -> None:
    grader = parse_grader({**MATH, "timeout_seconds": 0.5}, means)
    grade = grader.grade(Sample(output_text="$9^{9^{9^{9}}}$"), {"answer": "$9^{9^{9^{8}}}$"})
    assert grade.reward is None
    assert grade.errors == {"unresponsive_reward_error"}
    assert reward(means, MATH, "$2$", answer="2") == 1.0


SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "Ana", "age": 3}', 1.0),
        ('{"name": "Ana"}', 1.0),
        ('{"name": "Ana", "age": -3}', 0.0),
        ('{"age": 3}', 0.0),
        ('{"name": "Ana", "extra": 1}', 0.0),
        ("not JSON", 0.0),
        ("", 0.0),
        ('{"name": NaN}', 0.0),
        ("[" * 5000, 0.0),
    ],
)
def test_json_schema(means: Means, text: str, expected: float) -> None:
    assert reward(means, SCHEMA, text) == expected


def test_a_schema_that_is_none_is_refused_with_its_place(means: Means) -> None:
    with pytest.raises(GraderInvalid, match="not a JSON schema") as refused:
        parse_grader({"type": "json_schema", "json_schema": {"type": "objekt"}}, means)
    assert refused.value.param == "json_schema"


def test_a_schemas_references_fetch_nothing(means: Means) -> None:
    definition = {"type": "json_schema", "json_schema": {"$ref": "http://127.0.0.1:9/schema"}}
    grade = parse_grader(definition, means).grade(Sample(output_text="1"), {})
    assert grade.errors == {"other_error"}
    assert "Unresolvable" in grade.error_detail


def test_a_schemas_pattern_cannot_hang_the_process(
    means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.graders.json_schema.SECONDS", 0.5)
    definition = {"type": "json_schema", "json_schema": {"pattern": "^(a+)+$"}}
    grader = parse_grader(definition, means)
    grade = grader.grade(Sample(output_text='"' + "a" * 40 + '!"'), {})
    assert grade.errors == {"unresponsive_reward_error"}
    assert grader.grade(Sample(output_text='"aaa"'), {}).reward == 1.0


def entry(task: str) -> dict[str, Any]:
    return dict(reasoning_gym.create_dataset(task, size=1, seed=1)[0])


needs_cage = pytest.mark.skipif(
    not cage.is_caged() and not os.environ.get("CI"), reason="bubblewrap is not to be had here"
)


@needs_cage
@pytest.mark.parametrize("task", ["basic_arithmetic", "leg_counting", "countdown"])
def test_reasoning_gym_scores_as_its_own_scorer(means: Means, task: str) -> None:
    row = entry(task)
    score = reasoning_gym.get_score_answer_fn(task)
    definition = {"type": "reasoning_gym", "task": task}
    for text in (str(row["answer"]), "17", ""):
        assert reward(means, definition, text, **row) == score(text, row)


@needs_cage
def test_a_raise_that_the_answer_causes_scores_nothing_and_is_counted(means: Means) -> None:
    """The scorer reads factors with int()."""
    grader = parse_grader({"type": "reasoning_gym", "task": "prime_factorization"}, means)
    grade = grader.grade(Sample(output_text="two times three"), entry("prime_factorization"))
    assert not grade.errors, grade.error_detail
    assert grade.reward == 0.0
    assert grade.incidents == {"scorer_raised": 1}


# What a trained model could learn to write: some scorers evaluate the text, and sympy's parser too.
_FORGE = (
    "import sys\\n"
    "for name in ('gym', 'equivalence'):\\n"
    "  m = sys.modules.get('jobs.graders.offload.' + name)\\n"
    "  if m: m.run = lambda **k: m.Outcome(1.0)\\n"
    "m = sys.modules['jobs.graders.offload.records']\\n"
    "c = sys.modules['__main__']\\n"
    "c.encoded = lambda *a, **k: m.REPLY.pack(a[0], 0, 1.0, 0)\\n"
    "c.is_reply = lambda *a: True\\n"
)


@needs_cage
def test_an_answer_that_runs_as_code_reaches_no_other_row(means: Means) -> None:
    gym = parse_grader({"type": "reasoning_gym", "task": "countdown"}, means)
    row = {"question": "q", "answer": "1+2", "metadata": {"numbers": [1, 2], "target": 3}}
    attack = f'exec("{_FORGE}")'
    gym.grade(Sample(attack), row)
    for wrong in ("5", "wrong"):
        reward = gym.grade(Sample(wrong), row).reward
        assert reward is not None
        assert reward < 0.1
    assert gym.grade(Sample("1+2"), row).reward == 1.0


@pytest.mark.parametrize("shape", ["{}", "${}$", "\\boxed{{{}}}"])
def test_mathematics_that_runs_as_code_reaches_no_other_row(means: Means, shape: str) -> None:
    math = parse_grader(MATH, means)
    attack = f'exec("{_FORGE}")'
    math.grade(Sample(shape.format(attack)), {"answer": "3"})
    assert math.grade(Sample("7"), {"answer": "3"}).reward == 0.0
    assert math.grade(Sample("3"), {"answer": "3"}).reward == 1.0


@needs_cage
def test_an_unknown_task_is_refused_with_the_nearest(means: Means) -> None:
    with pytest.raises(GraderInvalid, match="did you mean 'basic_arithmetic'"):
        parse_grader({"type": "reasoning_gym", "task": "basic_arithmetics"}, means)


@needs_cage
def test_a_row_that_is_no_entry_is_the_rows_fault(means: Means) -> None:
    grader = parse_grader({"type": "reasoning_gym", "task": "word_sorting"}, means)
    assert grader.missing_item_paths({}) == ["answer", "metadata"]
    grade = grader.grade(Sample(output_text="a, b"), {"answer": "a, b", "metadata": {}})
    assert grade.errors == {"invalid_variable_error"}


def test_reasoning_gym_is_refused_where_answers_cannot_be_isolated(
    means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cage, "is_caged", lambda: False)
    with pytest.raises(GraderInvalid, match="install bubblewrap"):
        parse_grader({"type": "reasoning_gym", "task": "countdown"}, means)
