"""The log of every process: a line a fact, with its time in UTC and what it is about.

What it is about (the request, the job and its attempt) is a matter of context: whoever begins work
says so once, and every line of it carries the ids, those of libraries included.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from jobs.request_id import NO_REQUEST, REQUEST_ID_VARIABLE, request_id
from jobs.settings import Settings, get_settings

TEXT = "%(asctime)sZ %(levelname)s %(about)s %(name)s: %(message)s"

# What a secret looks like, wherever a message got it from: the key's own beginning stays, by which
# it can be told from others.
_SECRETS = (
    (re.compile(r"\b(hk-\w{3})[\w-]{20,}"), r"\1..."),
    (re.compile(r"\b(sk-\w{3})[\w-]{13,}"), r"\1..."),
    (re.compile(r"\b(whsec_)[\w+/=-]{8,}"), r"\1..."),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), r"\1..."),
    (re.compile(r"(://[^\s/:@]*:)[^\s/@\"']+(@)"), r"\1...\2"),
)

# A shorter one may be a part of any word.
SHORTEST_SECRET = 8

_job: ContextVar[tuple[str, int | None] | None] = ContextVar("job", default=None)
# Of processes that work for one job: their threads have contexts of their own.
_whole_process: dict[str, Any] = {}


@contextmanager
def about_job(job_id: str, attempt: int | None = None, *, request: str | None) -> Iterator[None]:
    """Every line from here to the end carries the job, and the request that made it."""
    outer_job = _job.set((job_id, attempt))
    outer_request = request_id.set(request or NO_REQUEST)
    try:
        yield
    finally:
        _job.reset(outer_job)
        request_id.reset(outer_request)


def about() -> dict[str, Any]:
    """What this context works on: `request_id`, `job_id` and `attempt`, as far as it is known."""
    found = dict(_whole_process)
    if (request := request_id.get()) != NO_REQUEST:
        found["request_id"] = request
    if (job := _job.get()) is not None:
        found["job_id"] = job[0]
        if job[1] is not None:
            found["attempt"] = job[1]
    return found


def configure(process: str, settings: Settings) -> None:
    """Set up this process's logging, in the form that the settings name, on standard error."""
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler()
    known = [settings.serving_token, os.environ.get("HONED_METRICS_TOKEN", "")]
    secrets = tuple(secret for secret in known if len(secret) >= SHORTEST_SECRET)
    if settings.log_format == "json":
        handler.setFormatter(JsonLines(process, secrets))
        sys.excepthook = _last_words
        warnings.simplefilter("default")
    else:
        handler.setFormatter(TextLines(secrets))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(settings.log_format == "json")
    # At every start it would tell which database it looks at.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Nor, with every client, where its credentials were.
    logging.getLogger("botocore").setLevel(logging.WARNING)


def configure_for_job(process: str, job_id: str, attempt: int | None = None) -> None:
    """As `configure`, for a process that works for one job: its every line is about that."""
    configure(process, get_settings())
    known = {
        "request_id": os.environ.get(REQUEST_ID_VARIABLE),
        "job_id": job_id,
        "attempt": attempt,
    }
    _whole_process.update({name: value for name, value in known.items() if value})


def refuse(sentence: str, settings: Settings) -> None:
    """Say why a process does not start: the sentence alone, or as a line like all others."""
    if settings.log_format == "json":
        logging.getLogger(__name__).error("%s", sentence)
    else:
        sys.stderr.write(f"{sentence}\n")


class TextLines(logging.Formatter):
    """For people: `time level request/job/attempt logger: message`."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(TEXT)
        self.converter = time.gmtime
        self.secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        record.about = " ".join(_shown(about())) or NO_REQUEST
        return redacted(super().format(record), self.secrets)


class JsonLines(logging.Formatter):
    """For machines: one JSON object a line, its fields as docs/monitoring.md has them."""

    def __init__(self, process: str, secrets: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.process = process
        self.secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self.process,
            "pid": record.process,
            "logger": record.name,
            **about(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return redacted(json.dumps(line, default=str), self.secrets)


def redacted(text: str, secrets: tuple[str, ...] = ()) -> str:
    """The text without what looks like a secret, or is one of those."""
    for secret in secrets:
        text = text.replace(secret, "...")
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def last_words(line: str) -> str:
    """What a line of either form says, for a sentence to end with."""
    try:
        said = json.loads(line)
    except ValueError:
        return line
    if not isinstance(said, dict) or "message" not in said:
        return line
    return str(said.get("error") or said["message"]).strip().splitlines()[-1]


def _shown(known: dict[str, Any]) -> Iterator[str]:
    if "request_id" in known:
        yield known["request_id"]
    if "job_id" in known:
        yield known["job_id"] + (f"/{known['attempt']}" if "attempt" in known else "")


def _last_words(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An error that ends the process, as a line like all others."""
    logging.getLogger(__name__).critical("the process ends", exc_info=(kind, error, trace))
