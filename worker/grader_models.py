"""The models that graders ask, as a trainer reaches them: in its own process, once one is asked."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jobs.graders.ports import Answer, Question
from jobs.local_models import is_here
from jobs.settings import Settings

if TYPE_CHECKING:
    from worker.serving.local_models import LocalModels


class TrainerModels:
    """Meets `jobs.graders.ports.Models`. Most jobs ask none, and then nothing is imported."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: LocalModels | None = None
        self._opening = threading.Lock()

    def serves(self, model: str) -> bool:
        """Meet `Models.serves`."""
        return is_here(model, self._settings)

    def can_embed(self) -> bool:
        """Meet `Models.can_embed`."""
        return bool(self._settings.embedding_model)

    def why_away(self) -> None:
        """Meet `Models.why_away`: this process runs them."""

    def score(
        self, model: str, conversations: Sequence[Sequence[Mapping[str, str]]]
    ) -> list[float]:
        """Meet `Models.score`. Raises GradeFailure."""
        return self._opened().score(model, conversations)

    def chat(self, model: str, question: Question) -> Answer:
        """Meet `Models.chat`. Raises GradeFailure."""
        return self._opened().chat(model, question)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Meet `Models.embed`. Raises GradeFailure."""
        return self._opened().embed(texts)

    def close(self) -> None:
        """End the thread that answers for judges."""
        if self._models is not None:
            self._models.close()

    def _opened(self) -> LocalModels:
        from worker.serving.local_models import LocalModels  # noqa: PLC0415 - it takes seconds

        with self._opening:
            if self._models is None:
                self._models = LocalModels.alone(self._settings)
            return self._models
