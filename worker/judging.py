"""What judges answered and cost, kept with the job, and the limits on that."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import DATABASE_AWAY, transaction
from jobs.graders.grade import Usage
from jobs.graders.ports import Spent as NoMore
from jobs.limits import Limits, Spent
from jobs.store import answers
from worker.grpo.errors import Interrupted

log = logging.getLogger(__name__)


class LimitReached(Interrupted):
    """A limit of the job's is reached: save and stop; the message says which."""


class KeptAnswers:
    """Judges' answers in the database. Without it a question is asked again, no more."""

    def __init__(self, sessions: sessionmaker[Session], job_id: str) -> None:
        self.sessions = sessions
        self.job_id = job_id

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The answer that some attempt of this job was given."""
        try:
            with self.sessions() as session:
                return answers.get(session, self.job_id, key)
        except DATABASE_AWAY:
            log.warning("the database did not say whether a judge's answer is kept", exc_info=True)
            return None

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Written at once: an attempt may be killed at any time."""
        try:
            with transaction(self.sessions) as session:
                answers.put(session, self.job_id, key, dict(answer))
        except IntegrityError:
            return  # another thread asked the same, and was faster
        except DATABASE_AWAY:
            log.warning("a judge's answer could not be kept", exc_info=True)


class Spending:
    """Counts what the attempt spends; any thread may ask and tell."""

    def __init__(self, limits: Limits | None, before: Mapping[str, Any]) -> None:
        """`before` is what earlier attempts have spent."""
        self.limits = limits
        self._before = Spent.model_validate(before)
        self._judge_requests = self._before.judge_requests
        self._judge_tokens = self._before.judge_tokens
        self._num_under_way = 0
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Count a question as under way."""
        with self._lock:
            self._num_under_way += 1

    def request(self) -> None:
        """Count one more request; raises NoMore, and counts nothing, at the limit."""
        with self._lock:
            limit = self.limits.max_judge_requests if self.limits else None
            if limit is not None and self._judge_requests >= limit:
                raise NoMore(f"the job's limit of {limit} judge requests is reached")
            self._judge_requests += 1

    def took(self, usage: Usage) -> None:
        """Count what a question's answer cost; one that failed costs no tokens that we know."""
        with self._lock:
            self._judge_tokens += usage.total_tokens
            self._num_under_way -= 1

    def so_far(self) -> Spent:
        """All of it, earlier attempts included."""
        with self._lock:
            return Spent(
                seconds=self._before.seconds + time.monotonic() - self._started,
                judge_requests=self._judge_requests,
                judge_tokens=self._judge_tokens,
            )

    def check(self) -> None:
        """Raise LimitReached when a limit is.

        At a judge's limit only when nothing is under way any more: what was asked is paid for, and
        is kept for the attempt that goes on.
        """
        if self.limits is None or (reached := self.so_far().reached(self.limits)) is None:
            return
        with self._lock:
            is_waited_for = self._num_under_way > 0 and not reached.is_time
        if not is_waited_for:
            raise LimitReached(reached.sentence)
