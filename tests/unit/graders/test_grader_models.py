"""Types that need models, against a small port; and without one, refused with a sentence."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from court import ITEM, MESSAGES, Court
from peer_server import Asked, Says, completion

from jobs.graders import GraderInvalid, Means, Sample, parse_grader
from jobs.graders.calling import Caller
from jobs.graders.grade import GradeFailure, Usage
from jobs.graders.judges import RemoteEmbedder
from jobs.graders.ports import Answer, Question
from jobs.graders.settings import EmbedderAt
from jobs.outbound import Outbound, host_of


class Port:
    """Models that this machine would run."""

    def __init__(self, answer: Callable[[Question], Any] | None = None) -> None:
        self.answer = answer
        self.questions: list[Question] = []
        self.seen: list[Any] = []

    def serves(self, model: str) -> bool:
        return model.startswith("local/")

    def score(self, model: str, conversations: Sequence[Any]) -> list[float]:
        self.seen += conversations
        return [float(len(one[-1]["content"])) - 4 for one in conversations]

    def chat(self, model: str, question: Question) -> Answer:
        assert self.answer is not None
        self.questions.append(question)
        usage = Usage(1, 100, 10, 0)
        return Answer(text=json.dumps(self.answer(question)), model=model, usage=usage)

    def can_embed(self) -> bool:
        return True

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Letters a, b and c counted."""
        return [[float(text.count(letter)) for letter in "abc"] for text in texts]


REWARD_MODEL = {
    "type": "reward_model",
    "model": "local/reward",
    "input": [
        {"role": "user", "content": "{{item.question}}"},
        {"role": "assistant", "content": "{{sample.output_text}}"},
    ],
}
RULER = {"type": "ruler", "model": "local/judge"}
COSINE = {
    "type": "text_similarity",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "evaluation_metric": "cosine",
}


def test_a_reward_model_scores_the_conversation() -> None:
    port = Port()
    grader = parse_grader(REWARD_MODEL, Means(models=port))
    assert grader.grade(Sample("sixsix"), ITEM).reward == 2.0
    assert port.seen == [
        [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "sixsix"}]
    ]
    sigmoid = parse_grader({**REWARD_MODEL, "output": "sigmoid"}, Means(models=port))
    assert sigmoid.grade(Sample("four"), ITEM).reward == 0.5
    assert grader.missing_item_paths({}) == ["question"]


def test_a_model_of_this_machine_can_be_a_judge() -> None:
    port = Port(lambda question: {"steps": [], "result": 0.25})
    definition = {"type": "score_model", "model": "local/judge", "input": MESSAGES}
    grade = parse_grader(definition, Means(models=port)).grade(Sample("4"), ITEM)
    assert grade.reward == 0.25
    assert grade.usage == {"local/judge": Usage(1, 100, 10, 0)}


def test_a_model_of_this_machine_is_shown_no_pictures() -> None:
    part = {"type": "input_image", "image_url": "https://example.com/a.png"}
    messages = [{"role": "user", "content": part}]
    definition = {"type": "score_model", "model": "local/judge", "input": messages}
    with pytest.raises(GraderInvalid, match="reads text only") as refused:
        parse_grader(definition, Means(models=Port()))
    assert refused.value.param == "input"


def ranked(question: Question) -> Mapping[str, Any]:
    """Longer answers are better, and one is forgotten."""
    answers = json.loads(question.messages[-1]["content"])["answers"]
    return {
        "scores": [
            {"id": one["id"], "explanation": "", "score": len(one["answer"]) / 4}
            for one in answers
            if one["answer"] != "forget me"
        ]
    }


def test_ruler_ranks_a_group_in_one_call() -> None:
    port = Port(ranked)
    grader = parse_grader(RULER, Means(models=port))
    assert grader.is_group_aware
    samples = [Sample(text) for text in ("a", "aaa", "a", "forget me", "far too long")]
    grades = grader.grade_group(samples, ITEM)
    assert [grade.reward for grade in grades] == [0.25, 0.75, 0.25, None, 1.0]
    assert grades[3].errors == {"model_grader_parse_error"}
    assert grades[4].incidents == {"result_clamped": 1}
    assert [grade.usage for grade in grades] == [{"local/judge": Usage(1, 100, 10, 0)}, *[{}] * 4]
    (question,) = port.questions
    shown = json.loads(question.messages[-1]["content"])
    assert [one["answer"] for one in shown["answers"]] == [
        "a",
        "aaa",
        "forget me",
        "far too long",
    ]
    assert json.loads(shown["task"]) == ITEM["messages"]


def test_a_judge_that_fails_fails_for_the_whole_group_and_is_paid_once() -> None:
    port = Port(lambda question: ["no", "object"])
    grades = parse_grader(RULER, Means(models=port)).grade_group([Sample("a"), Sample("b")], ITEM)
    assert [grade.errors for grade in grades] == [{"model_grader_parse_error"}] * 2
    assert [bool(grade.usage) for grade in grades] == [True, False]


def test_ruler_can_stand_in_a_multi_beside_graders_of_one_sample() -> None:
    definition = {
        "type": "multi",
        "graders": {"rank": RULER, "short": {"type": "length", "unit": "characters", "max": 2}},
        "calculate_output": "rank + short",
    }
    grader = parse_grader(definition, Means(models=Port(ranked)))
    assert grader.is_group_aware
    grades = grader.grade_group([Sample("a"), Sample("aaa")], ITEM)
    assert [grade.reward for grade in grades] == [1.25, 0.75]


@pytest.mark.parametrize(
    ("text", "expected"), [("aabb", 1.0), ("ab", 1.0), ("c", 0.0), ("a", 0.5**0.5), ("", 0.0)]
)
def test_cosine_by_an_encoder_of_this_machine(text: str, expected: float) -> None:
    grade = parse_grader(COSINE, Means(models=Port())).grade(Sample(text), {"reference": "ab"})
    assert grade.reward == pytest.approx(expected)


def test_cosine_by_a_service(court: Callable[..., Court]) -> None:
    vectors = {"x": [1.0, 0.0], "y": [1.0, 1.0], "z": [-1.0, 0.0]}

    def embed(asked: Asked) -> Says:
        rows = [{"index": i, "embedding": vectors[t]} for i, t in enumerate(asked.body["input"])]
        return Says({"data": rows[::-1]})

    peer = court(embed).peer
    at = EmbedderAt(base_url=f"{peer.url}/v1", model="embedder", max_retries=0)
    caller = Caller(Outbound(allowed=[host_of(at.base_url)]))
    means = Means(embedder=RemoteEmbedder(at, caller))
    grader = parse_grader(COSINE, means)
    rewards = [grader.grade(Sample(text), {"reference": "x"}).reward for text in "xyz"]
    assert rewards == pytest.approx([1.0, 0.5**0.5, 0.0])
    assert peer.asked[0].path == "/v1/embeddings"
    assert peer.asked[0].body["model"] == "embedder"
    peer.behaviour = lambda asked: Says(completion("no vectors"))
    grade = grader.grade(Sample("x"), {"reference": "y"})
    assert grade.errors == {"model_grader_server_error"}
    means.close()


def test_a_port_that_fails_is_flagged() -> None:
    class Broken(Port):
        def score(self, model: str, conversations: Sequence[Any]) -> list[float]:
            raise GradeFailure("model_grader_server_error", "the model is still loading")

    grade = parse_grader(REWARD_MODEL, Means(models=Broken())).grade(Sample("a"), ITEM)
    assert grade.details == {"model_grader_server_error": "the model is still loading"}


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (REWARD_MODEL, "a process that runs models, and this server has none"),
        (RULER, "HONED_JUDGES"),
        (COSINE, "HONED_EMBEDDINGS"),
    ],
)
def test_without_models_they_are_refused_with_a_sentence(
    definition: dict[str, Any], words: str
) -> None:
    with pytest.raises(GraderInvalid, match=words):
        parse_grader(definition)


def test_a_model_that_this_machine_does_not_run_is_refused() -> None:
    with pytest.raises(GraderInvalid, match="not a model that this server can run"):
        parse_grader({**REWARD_MODEL, "model": "other/model"}, Means(models=Port()))
