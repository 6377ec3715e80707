"""Graders that need a model, in the service: asked over HTTP in the serving process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import Server, chat_server
from talker import write_judge

from jobs.graders import Means, Sample, parse_grader
from jobs.graders.grade import GradeFailure
from jobs.graders.ports import Question
from service.grader_models import ServingModels


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Server]:
    with chat_server(tmp_path_factory.mktemp("models"), migrated_database) as server:
        yield server


@pytest.fixture(scope="module")
def models(server: Server) -> ServingModels:
    return ServingModels(server.settings)


def test_a_reward_model_and_an_encoder_grade(models: ServingModels, server: Server) -> None:
    name = str(Path(server.talker).parent / "reward")
    reward = {
        "type": "reward_model",
        "model": name,
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    }
    cosine = {
        "type": "text_similarity",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference}}",
        "evaluation_metric": "cosine",
    }
    means = Means(models=models)
    sample = Sample(output_text="yes, it is")
    (number,) = models.score(name, [[{"role": "user", "content": "yes, it is"}]])
    assert parse_grader(reward, means).grade(sample, {}).reward == number
    same = parse_grader(cosine, means).grade(sample, {"reference": "yes, it is"})
    assert same.reward == pytest.approx(1.0, abs=1e-5)


def test_a_local_judge_answers_and_is_counted(models: ServingModels, server: Server) -> None:
    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    asked = {"temperature": 0, "max_completion_tokens": 6}
    answer = models.chat(server.talker, Question(messages, {"type": "object"}, asked))
    assert answer.text
    assert answer.is_cut
    assert answer.usage.completion_tokens == 6
    assert answer.usage.num_requests == 1


VERDICT = {
    "steps": [],
    "result": 0.25,
    "scores": [
        {"id": "1", "explanation": "near", "score": 0.75},
        {"id": "2", "explanation": "far", "score": 0.5},
    ],
}


@pytest.fixture(scope="module")
def judge(server: Server) -> str:
    """A model of this machine that always gives this verdict."""
    return str(write_judge(Path(server.talker).parent / "judge", json.dumps(VERDICT)))


def test_a_local_judge_ranks_a_group_through_the_serving_process(
    models: ServingModels, server: Server, judge: str
) -> None:
    definition = {"type": "ruler", "model": judge, "sampling_params": {"temperature": 0.0}}
    item = {"messages": [{"role": "user", "content": "What is 2 + 3?"}]}
    means = Means(models=models)
    grader = parse_grader(definition, means)
    samples = [Sample(text) for text in ("5", "about 6", "5", "no idea")]
    grades = grader.grade_group(samples, item)
    means.close()
    assert [grade.reward for grade in grades] == [0.75, 0.5, 0.75, None], grades
    assert grades[3].errors == {"model_grader_parse_error"}, "the judge left it out"
    first, *rest = [grade.usage for grade in grades]
    assert (first[judge].num_requests, first[judge].completion_tokens) == (1, 2)
    assert first[judge].prompt_tokens > 50
    assert rest == [{}] * 3


def test_the_service_runs_a_grader_with_a_local_judge(server: Server, judge: str) -> None:
    messages = [{"role": "user", "content": "{{sample.output_text}}"}]
    grader = {"type": "score_model", "model": judge, "input": messages}
    run = server.client.fine_tuning.alpha.graders.run(grader=grader, model_sample="5")
    assert (run.reward, run.metadata.sampled_model_name) == (0.25, judge)
    used = run.to_dict()["model_grader_token_usage_per_model"][judge]
    assert used["completion_tokens"] == 2


def test_a_fault_is_told_in_the_serving_processs_words(
    models: ServingModels, server: Server
) -> None:
    with pytest.raises(GradeFailure, match="one output, and this classifier has 2") as caught:
        models.score(str(Path(server.talker).parent / "labels"), [[]])
    assert caught.value.flag == "model_grader_server_error"
    many = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(GradeFailure, match="context is 512 tokens"):
        models.chat(server.talker, Question(many, {"type": "object"}))


def test_where_nothing_serves_it_is_asked_for_and_awaited_in_vain(
    server: Server, tmp_path: Path
) -> None:
    away = {"data_dir": tmp_path, "serving_start_seconds": 0.1}
    settings = server.settings.model_copy(update=away)
    with pytest.raises(GradeFailure, match=r"does not answer yet.*its log says why"):
        ServingModels(settings).embed(["x"])
    assert (settings.run_dir / "serving.wanted").exists()
