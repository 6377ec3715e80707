"""The models that graders ask, in this process: judges, reward models, a sentence encoder."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from jobs.errors import HonedError
from jobs.graders.grade import GradeFailure
from jobs.graders.ports import Answer, Question
from jobs.judging import Gathered, question_task
from jobs.local_models import is_here
from jobs.serving import Delta, Finished, Served
from jobs.settings import Settings
from worker.serving.classifier import Classifier
from worker.serving.encoder import Encoder
from worker.serving.engine import Engine
from worker.serving.generation import generation_of
from worker.serving.hosted import HostedModel
from worker.serving.hosting import Hosting


class LocalModels:
    """Meets `jobs.graders.ports.Models`. Any thread may ask; models load as they are asked for."""

    def __init__(self, settings: Settings, hosting: Hosting, engine: Engine) -> None:
        self._settings = settings
        self._hosting = hosting
        self._engine = engine

    @classmethod
    def alone(cls, settings: Settings) -> LocalModels:
        """For a process that does nothing else with them; to be closed."""
        return cls(settings, Hosting(settings, has_jobs=lambda: True), Engine())

    def close(self) -> None:
        """End the engine; a judge's answer that is under way fails."""
        self._engine.close()

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
        try:
            with self._hosting.use(Classifier, _named(model)) as classifier:
                return classifier.score(conversations)
        except (HonedError, ValueError) as error:
            raise GradeFailure(
                "model_grader_server_error", f"the reward model {model!r} failed: {error}"
            ) from None

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Meet `Models.embed`. Raises GradeFailure."""
        try:
            with self._hosting.use(Encoder, _named(self._settings.embedding_model)) as encoder:
                return encoder.embed(texts)
        except (HonedError, ValueError) as error:
            raise GradeFailure(
                "model_grader_server_error", f"the texts could not be embedded: {error}"
            ) from None

    def chat(self, model: str, question: Question) -> Answer:
        """Meet `Models.chat`. Raises GradeFailure."""
        task = question_task(model, question)
        gathered = Gathered(model)
        ended = threading.Event()
        failures: list[HonedError] = []

        def emit(event: Delta | Finished | HonedError) -> None:
            if isinstance(event, HonedError):
                failures.append(event)
            else:
                gathered.add(event)
            if isinstance(event, HonedError | Finished):
                ended.set()

        try:
            with self._hosting.use(HostedModel, task.model) as hosted:
                generation = generation_of(task, hosted, adapter=None, emit=emit)
                gathered.prompt_tokens = len(generation.prompt_ids)
                self._engine.submit(generation)
                ended.wait()
        except HonedError as error:
            failures.append(error)
        if failures:
            raise GradeFailure(
                "model_grader_server_error", f"the judge {model!r} failed: {failures[0]}"
            )
        return gathered.answer()


def _named(model: str) -> Served:
    return Served(name=model, base={"name": model})
