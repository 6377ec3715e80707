"""Judges: chat models that the operator has named, asked once for each question."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any, Protocol

from jobs.graders.calling import Caller, CallFailed, Patience
from jobs.graders.grade import GradeFailure, Usage
from jobs.graders.ports import Answer, Answers, Budget, Models, Question, Spent
from jobs.graders.settings import EmbedderAt, JudgeAt

MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_QUESTION_BYTES = 4 * 1024 * 1024


class Judge(Protocol):
    """Whoever answers questions."""

    concurrency: int

    def ask(self, question: Question, *, sending: Callable[[], None]) -> Answer:
        """One answer; raises GradeFailure where there is none.

        Every request that is sent for it is told to `sending` before, which may raise.
        """

    def close(self) -> None:
        """Let go of connections."""


class RemoteJudge:
    """A chat completions endpoint."""

    def __init__(self, name: str, at: JudgeAt, caller: Caller) -> None:
        self.name = name
        self.at = at
        self.concurrency = at.concurrency
        self._slots = threading.BoundedSemaphore(at.concurrency)
        self._caller = caller

    def ask(self, question: Question, *, sending: Callable[[], None]) -> Answer:
        """One answer; raises GradeFailure where there is none."""
        body = json.dumps(self._body(question)).encode()
        if len(body) > MAX_QUESTION_BYTES:
            raise GradeFailure(
                "truncated_observation_error",
                f"the question is {len(body):,} bytes, more than the {MAX_QUESTION_BYTES:,} that a "
                "judge is asked",
            )
        patience = Patience(self.at.timeout_seconds, self.at.max_retries, MAX_ANSWER_BYTES)
        url = f"{self.at.base_url.rstrip('/')}/chat/completions"
        with self._slots:
            try:
                reply = self._caller.post(
                    url,
                    body,
                    headers=self.at.headers(),
                    patience=patience,
                    before_each=sending,
                )
            except CallFailed as error:
                raise GradeFailure(
                    "model_grader_server_error", f"the judge {self.name!r} failed: {error}"
                ) from None
        return _answer(reply, self.name)

    def _body(self, question: Question) -> dict[str, Any]:
        messages = list(question.messages)
        body: dict[str, Any] = {"model": self.at.model or self.name, **question.sampling}
        if self.at.answer_format == "json_schema":
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": dict(question.form)},
            }
        else:
            messages.append(
                {
                    "role": "user",
                    "content": "Answer with one JSON object and nothing else, of this JSON schema: "
                    + json.dumps(question.form),
                }
            )
        return {**body, "messages": messages}

    def close(self) -> None:
        self._caller.close()


class LocalJudge:
    """A judge that this machine's models port runs."""

    concurrency = 8

    def __init__(self, name: str, models: Models) -> None:
        self.name = name
        self.models = models

    def ask(self, question: Question, *, sending: Callable[[], None]) -> Answer:
        sending()
        return self.models.chat(self.name, question)

    def close(self) -> None:
        pass


class OneAtATime:
    """Work by key: while some thread does it, others wait for the result instead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, Future[Answer]] = {}

    def do(self, key: str, work: Callable[[], Answer]) -> tuple[Answer, bool]:
        """The result, and whether this call did the work; raises what the work raised."""
        with self._lock:
            running = self._running.get(key)
            mine: Future[Answer] = running or self._running.setdefault(key, Future())
        if running is not None:
            return running.result(), False
        try:
            answer = work()
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(answer)
            return answer, True
        finally:
            with self._lock:
                del self._running[key]


def asked_once(
    judge: Judge,
    name: str,
    question: Question,
    *,
    answers: Answers,
    budget: Budget,
    asking: OneAtATime,
) -> Answer:
    """The kept answer to this very question, or the judge's, kept from now on.

    Of threads that ask the same at once, one does. Raises GradeFailure; what failed is not kept.
    """
    key = _key(name, judge, question)
    usage = Usage()

    def sending() -> None:
        nonlocal usage
        budget.request()
        usage += Usage(num_requests=1)

    def ask() -> Answer:
        nonlocal usage
        kept = answers.get(key)
        if kept is not None:
            return Answer(**{**kept, "usage": Usage()})
        budget.begin()
        try:
            answer = judge.ask(question, sending=sending)
            usage = replace(answer.usage, num_requests=usage.num_requests)
            content = {name: value for name, value in asdict(answer).items() if name != "usage"}
            answers.put(key, content)
        except Spent as spent:
            raise GradeFailure("model_grader_server_error", str(spent)) from None
        finally:
            budget.took(usage)
        return replace(answer, usage=usage)

    try:
        answer, is_first = asking.do(key, ask)
    except GradeFailure as failure:
        # Each waiter gets an error of its own; what it cost is told by whoever asked.
        raise GradeFailure(failure.flag, failure.detail, usage={name: usage}) from None
    return answer if is_first else replace(answer, usage=Usage())


def _key(name: str, judge: Judge, question: Question) -> str:
    at = (
        judge.at.model_dump(include={"base_url", "model"}) if isinstance(judge, RemoteJudge) else {}
    )
    content = {"judge": name, **at, **asdict(question)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _answer(reply: Any, name: str) -> Answer:
    """A chat completion as an answer; raises GradeFailure for anything else."""
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
        finish_reason = choice.get("finish_reason")
        counts = reply.get("usage") or {}
        details = counts.get("prompt_tokens_details") or {}
        usage = Usage(
            num_requests=1,
            prompt_tokens=_count(counts.get("prompt_tokens")),
            completion_tokens=_count(counts.get("completion_tokens")),
            cached_tokens=_count(details.get("cached_tokens")),
        )
    except (LookupError, TypeError, AttributeError):
        raise GradeFailure(
            "model_grader_server_error", f"the judge {name!r} did not answer as chat completions do"
        ) from None
    model = reply.get("model")
    return Answer(
        text=text if isinstance(text, str) else "",
        model=model if isinstance(model, str) else name,
        usage=usage,
        is_refusal=bool(refusal) or finish_reason == "content_filter",
        is_cut=finish_reason == "length",
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


class RemoteEmbedder:
    """An embeddings endpoint."""

    def __init__(self, at: EmbedderAt, caller: Caller) -> None:
        self.at = at
        self._slots = threading.BoundedSemaphore(at.concurrency)
        self._caller = caller

    def embed(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text; raises GradeFailure."""
        body = json.dumps({"model": self.at.model or "default", "input": texts}).encode()
        patience = Patience(self.at.timeout_seconds, self.at.max_retries, MAX_ANSWER_BYTES)
        url = f"{self.at.base_url.rstrip('/')}/embeddings"
        with self._slots:
            try:
                reply = self._caller.post(url, body, headers=self.at.headers(), patience=patience)
                rows = sorted(reply["data"], key=lambda row: int(row["index"]))
                vectors = [[float(number) for number in row["embedding"]] for row in rows]
            except CallFailed as error:
                raise GradeFailure(
                    "model_grader_server_error", f"the embedding service failed: {error}"
                ) from None
            except (LookupError, TypeError, ValueError):
                vectors = []
        if len(vectors) != len(texts):
            raise GradeFailure(
                "model_grader_server_error", "the embedding service did not answer as it should"
            )
        return vectors

    def close(self) -> None:
        self._caller.close()
