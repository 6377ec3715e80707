"""reward_model: a sequence classifier with one output gives the number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.means import Means, means_of
from jobs.graders.outside import BoundGrader
from jobs.graders.template import Template

CONCURRENCY = 8
_NO_MODELS = "a reward_model grader needs a process that runs models, and this server has none"


class ScoredMessage(BaseModel):
    """One message of the conversation that is scored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    role: Literal["user", "assistant", "system"]
    content: Template


class RewardModel(BoundGrader):
    """Reward = the classifier's output for the conversation: raw, or its sigmoid, 0 to 1.

    `model` is a Hugging Face sequence classifier with one label that this machine may run.
    """

    nested: ClassVar = {"input": ScoredMessage}

    type: Literal["reward_model"]
    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Annotated[list[ScoredMessage], Field(min_length=1, max_length=64)]
    output: Literal["raw", "sigmoid"] = "raw"

    @field_validator("model")
    @classmethod
    def _is_served(cls, model: str, info: ValidationInfo) -> str:
        models = means_of(info).models
        if models is None:
            raise ValueError(_NO_MODELS)
        if not models.serves(model):
            raise ValueError(f"{model!r} is not a model that this server can run")
        return model

    @classmethod
    def why_unusable(cls, means: Means) -> str | None:
        """Where nothing runs models."""
        return _NO_MODELS if means.models is None else None

    @classmethod
    def limitations(cls, means: Means) -> list[str]:
        """Where the process that runs models is not up."""
        reason = means.models.why_away() if means.models else None
        return [reason] if reason else []

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """The classifier's number for one conversation."""
        models = self._means.models
        if models is None:
            raise GradeFailure("model_grader_server_error", "this process runs no models")
        conversation = [
            {"role": message.role, "content": message.content.render(sample, item)}
            for message in self.input
        ]
        (number,) = models.score(self.model, [conversation])
        return number if self.output == "raw" else _sigmoid(number)

    def templates(self) -> Iterator[Template]:
        """Those of every message."""
        return (message.content for message in self.input)

    @property
    def concurrency(self) -> int:
        """How many samples can be graded at a time."""
        return CONCURRENCY


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
