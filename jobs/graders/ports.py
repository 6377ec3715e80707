"""What graders need of the process they run in, as interfaces: models, kept answers, a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.graders.grade import Usage


class Spent(Exception):
    """A judge may not be asked any more: the job's limit is reached."""


@dataclass(frozen=True)
class Question:
    """What a judge is asked: chat messages and the form its answer must have."""

    messages: Sequence[Mapping[str, Any]]
    form: Mapping[str, Any]
    """The JSON schema of the answer."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Chat completions' own parameters, by their own names."""


@dataclass(frozen=True)
class Answer:
    """What a judge said, before anybody makes sense of it."""

    text: str
    model: str
    usage: Usage = field(default_factory=Usage)
    """Nothing for an answer that was kept from before."""
    is_refusal: bool = False
    is_cut: bool = False
    """The token limit ended it."""


class Models(Protocol):
    """Models that this machine runs: the service reaches them over HTTP, a trainer in itself."""

    def serves(self, model: str) -> bool:
        """Whether a grader may name this model here."""

    def score(
        self, model: str, conversations: Sequence[Sequence[Mapping[str, str]]]
    ) -> list[float]:
        """One raw output of a sequence classifier with one label for each conversation."""

    def chat(self, model: str, question: Question) -> Answer:
        """A local judge's answer."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text, by the encoder that this machine runs."""

    def can_embed(self) -> bool:
        """Whether there is such an encoder."""

    def why_away(self) -> str | None:
        """Where no process runs models as it is: a sentence on who starts one."""


class Answers(Protocol):
    """Answers of judges, kept by content, so that the same question is asked once."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What `put` was given under this key, or None."""

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer; of two under one key either may stay."""


class Budget(Protocol):
    """How much judges may still be asked."""

    def begin(self) -> None:
        """A question is about to be asked; `took` ends it."""

    def request(self) -> None:
        """One more request is about to be sent, of retries each. Raises Spent when none may be."""

    def took(self, usage: Usage) -> None:
        """What a question's answer cost, once it is kept; nothing where there was none."""


class NoAnswers:
    """Keeps nothing: every question is asked."""

    def get(self, key: str) -> None:
        return None

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        pass


class NoBudget:
    """Without a limit."""

    def begin(self) -> None:
        pass

    def request(self) -> None:
        pass

    def took(self, usage: Usage) -> None:
        pass
