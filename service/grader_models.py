"""The models that graders ask, as the service reaches them: over HTTP, in the serving process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import httpx2
from pydantic import BaseModel, TypeAdapter

from jobs.graders.grade import GradeFailure
from jobs.graders.ports import Answer, Question
from jobs.judging import Gathered, question_task
from jobs.local_models import is_here, is_name
from jobs.serving import (
    CHAT_PATH,
    EMBED_PATH,
    SCORE_PATH,
    Delta,
    EmbedTask,
    Failed,
    Finished,
    Record,
    ScoreTask,
    Started,
    address,
    want,
)
from service.serving import away, client_options, headers, patience
from service.settings import ServiceSettings

POLL_SECONDS = 0.25
ANSWER_SECONDS = 300.0
_record: TypeAdapter[Record] = TypeAdapter(Record)


class ServingModels:
    """Meets `jobs.graders.ports.Models`. Where nothing serves yet, it waits for the start."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._client = httpx2.Client(**client_options(settings))

    def close(self) -> None:
        """End its connections."""
        self._client.close()

    def serves(self, model: str) -> bool:
        """Meet `Models.serves`. Of a serving process elsewhere it is found out when it is asked."""
        if self._settings.serving_url:
            return is_name(model, self._settings)
        return is_here(model, self._settings)

    def can_embed(self) -> bool:
        """Meet `Models.can_embed`."""
        return bool(self._settings.embedding_model)

    def why_away(self) -> str | None:
        """Meet `Models.why_away`."""
        if address(self._settings) is not None:
            return None
        return (
            "No process runs models now: `honed up` starts one at the first use; without it, run "
            "`python -m worker.serve` and name it in HONED_SERVING_URL."
        )

    def score(
        self, model: str, conversations: Sequence[Sequence[Mapping[str, str]]]
    ) -> list[float]:
        """Meet `Models.score`. Raises GradeFailure."""
        listed = [[dict(message) for message in one] for one in conversations]
        numbers: list[float] = self._ask(
            SCORE_PATH, ScoreTask(model=model, conversations=listed)
        ).json()
        return numbers

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Meet `Models.embed`. Raises GradeFailure."""
        vectors: list[list[float]] = self._ask(EMBED_PATH, EmbedTask(texts=list(texts))).json()
        return vectors

    def chat(self, model: str, question: Question) -> Answer:
        """Meet `Models.chat`. Raises GradeFailure."""
        gathered = Gathered(model)
        response = self._ask(CHAT_PATH, question_task(model, question))
        # Texts may hold other ends of a line, such as U+2028, as they are.
        for line in filter(None, response.content.split(b"\n")):
            record = _record.validate_json(line)
            match record:
                case Started():
                    gathered.prompt_tokens = record.prompt_tokens
                case Delta() | Finished():
                    gathered.add(record)
                case Failed():
                    raise _failure(str(record.error["message"]))
        return gathered.answer()

    def _ask(self, path: str, task: BaseModel) -> httpx2.Response:
        """The whole answer; raises GradeFailure where there is none."""
        give_up_at = time.monotonic() + patience(self._settings)
        while True:
            try:
                return self._posted(path, task)
            except httpx2.ConnectError:
                want(self._settings)
                if time.monotonic() > give_up_at:
                    raise _failure(away(self._settings).message) from None
                time.sleep(POLL_SECONDS)
            except httpx2.TransportError as error:
                raise _failure(f"the process that runs models broke off: {error}") from None

    def _posted(self, path: str, task: BaseModel) -> httpx2.Response:
        where = address(self._settings)
        if where is None:
            raise httpx2.ConnectError("nothing serves here yet")
        response = self._client.post(
            f"{where.url}{path}",
            content=task.model_dump_json().encode(),
            headers=headers(where),
            timeout=ANSWER_SECONDS,
        )
        if response.status_code == 401 and not self._settings.serving_url:
            raise httpx2.ConnectError("it has started anew: its new address comes in a moment")
        if response.status_code != 200:
            raise _failure(_message(response))
        return response


def _message(response: httpx2.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the process that runs models answered {response.status_code}"


def _failure(sentence: str) -> GradeFailure:
    return GradeFailure("model_grader_server_error", sentence)
