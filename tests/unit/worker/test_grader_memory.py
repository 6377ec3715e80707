"""Models that a grader asks of this machine count in what its job is said to need."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from talker import write_bert, write_talker
from transformers import BertForSequenceClassification, BertModel

from jobs.errors import JobFailure
from jobs.graders import Means, parse_grader
from jobs.graders.settings import GraderSettings
from jobs.settings import Settings
from worker.grader_memory import grader_bytes
from worker.grader_models import TrainerModels

Needed = Callable[..., int]

MESSAGES = [{"role": "user", "content": "{{sample.output_text}}"}]
COSINE = {
    "type": "text_similarity",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "cosine",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_talker(folder / "judge")
    write_bert(folder / "reward", BertForSequenceClassification)
    write_bert(folder / "encoder", BertModel)
    return folder


@pytest.fixture
def needed(folder: Path) -> Needed:
    """What a grader's models take on a device, by this environment's settings."""

    def needed(definition: dict[str, Any], device: str = "cpu") -> int:
        settings = Settings(model_roots=(folder,), embedding_model=str(folder / "encoder"))
        means = Means.of(GraderSettings(), models=TrainerModels(settings))
        found = grader_bytes(parse_grader(definition, means), means, settings, device=device)
        means.close()
        return found

    return needed


def on_disk(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def test_each_model_of_this_machine_counts_once(needed: Needed, folder: Path) -> None:
    judge = {"type": "score_model", "model": str(folder / "judge"), "input": MESSAGES}
    reward = {"type": "reward_model", "model": str(folder / "reward"), "input": MESSAGES}
    ruler = {"type": "ruler", "model": str(folder / "judge")}
    for definition, name in ((judge, "judge"), (ruler, "judge"), (reward, "reward"),
                             (COSINE, "encoder")):  # fmt: skip
        # In fp32 as they are stored; a GPU holds them in bf16.
        assert needed(definition) == pytest.approx(1.1 * on_disk(folder / name), rel=0.05)
        assert needed(definition, "cuda") == pytest.approx(needed(definition) / 2, abs=1)
    parts = {"a": judge, "b": reward, "c": COSINE, "d": {**judge, "range": [0, 5]}}
    together = {"type": "multi", "graders": parts, "calculate_output": "a + b + c + d"}
    assert needed(together) == needed(judge) + needed(reward) + needed(COSINE)


def test_what_runs_elsewhere_takes_nothing_here(
    needed: Needed, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {"base_url": "https://judge.example/v1"}
    monkeypatch.setenv("HONED_JUDGES", json.dumps({"strict": at}))
    monkeypatch.setenv("HONED_EMBEDDINGS", json.dumps(at))
    judge = {"type": "score_model", "model": "strict", "input": MESSAGES}
    short = {"type": "length", "unit": "words", "max": 3}
    assert [needed(one) for one in (judge, COSINE, short)] == [0, 0, 0]


def test_an_encoder_that_is_not_there_is_said(folder: Path) -> None:
    settings = Settings(model_roots=(folder,), embedding_model=str(folder / "gone"))
    means = Means.of(GraderSettings(), models=TrainerModels(settings))
    with pytest.raises(JobFailure, match="A model that the grader asks is not on this worker"):
        grader_bytes(parse_grader(COSINE, means), means, settings, device="cpu")
    means.close()
