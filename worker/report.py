"""Metrics, samples and checkpoints out of the trainer process: every write carries its attempt."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from jobs import artifacts, disk
from jobs.artifacts import ADAPTER_ARCHIVE, ArtifactStore, Stored
from jobs.datasets import Row
from jobs.db import DATABASE_AWAY, now, transaction
from jobs.errors import StoreAway
from jobs.graders import GraderSpec
from jobs.models import Job, Json
from jobs.store import attempts, checkpoints, events, metrics, storage, tallies
from jobs.store.attempts import Claim
from worker import openai_metrics
from worker.behind import Behind
from worker.grpo.types import Evaluation, Group, StepResult
from worker.judging import LimitReached
from worker.tallying import count_step

log = logging.getLogger(__name__)

# A database or a store that restarts is waited for, as a disk is that is full for a moment; the
# lease decides whether the wait was too long.
PASSING = (StoreAway, *DATABASE_AWAY)
RETRY_SECONDS = 2.0
MAX_RETRIES = 15
# Where each try takes its time: less than a trainer may be silent for.
PATIENCE_SECONDS = 120.0
KEPT_STATES = 2
MAX_SAMPLES_A_STEP = 64
PAUSED = (
    "The job is paused after a saved step, since its project's storage is used up; resume it once "
    "there is room, and it goes on from there."
)


class Reporter:
    """One attempt's pen: what it is given is written in order, while the loop goes on.

    A write that failed is raised by the next call: LeaseLost, once the job is another attempt's.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        store: ArtifactStore,
        claimed: Claim,
        grader: GraderSpec,
        *,
        default_quota: int | None = None,
    ) -> None:
        self.sessions = sessions
        self.store = store
        self.claimed = claimed
        self.grader = grader
        self.default_quota = default_quota
        self._full: str | None = None
        self._behind = Behind()

    def check(self) -> None:
        """Raise what an earlier write raised, or LimitReached once the project's quota is."""
        self._behind.check()
        if self._full is not None:
            raise LimitReached(self._full)

    def wait(self) -> None:
        """Return once everything is written."""
        self._behind.wait()

    def step(
        self, result: StepResult, *, total_steps: int, seconds_left: float | None, spent: Json
    ) -> Json:
        """Have the step's metrics row, samples, counters and event written in one transaction.

        A step that a resumed attempt redoes has its event already: there is one a step.
        Returns the event's data: the row, OpenAI's nested forms, and its flat names always.
        """
        parts = openai_metrics.nested(result, self.grader)
        row = {**metrics_row(result), **openai_metrics.error_columns(parts["errors"])}
        always: Json = dict.fromkeys(openai_metrics.FLAT)
        data = {"step": result.step, "total_steps": total_steps, **always, **row, **parts}
        every = (one for group in result.groups for one in _samples(group))
        samples = list(islice(every, MAX_SAMPLES_A_STEP))

        def write(session: Session) -> None:
            counted: dict[str, Any] = {"step": result.step, "spent": spent}
            if row.get("num_tokens") is not None:
                counted["trained_tokens"] = int(row["num_tokens"])
            if seconds_left is not None:
                counted["estimated_finish_at"] = now() + seconds_left
            attempts.fence(session, self.claimed, **counted)
            job_id, attempt = self.claimed.job_id, self.claimed.attempt
            earlier = metrics.put(session, job_id, step=result.step, attempt=attempt, data=row)
            if earlier != attempt:
                count_step(tallies.of(session), result, self.grader)
            if samples:
                metrics.put_samples(
                    session, job_id, step=result.step, attempt=attempt, samples=samples
                )
            if earlier is None:
                sentence = _sentence(row, result.step, total_steps)
                events.add(session, job_id, sentence, type="metrics", data=data)

        self._behind.do(lambda: self._committed(write))
        return data

    def checkpoint(
        self,
        step: int,
        *,
        write_adapter: Callable[[Path], None],
        write_state: Callable[[Path], None],
        row: Json,
    ) -> None:
        """Have adapter and training state of a finished step published, by writers of copies."""
        self._behind.do(
            lambda: self._publish(
                step, write_adapter=write_adapter, write_state=write_state, row=row
            )
        )

    def _publish(
        self,
        step: int,
        *,
        write_adapter: Callable[[Path], None],
        write_state: Callable[[Path], None],
        row: Json,
    ) -> None:
        """Bytes first, then the row.

        Checkpoints and states that are not needed any more go: rows first, then their bytes.
        """
        folder = f"jobs/{self.claimed.job_id}/attempt-{self.claimed.attempt}/step-{step}"
        archive = Stored(0, "")

        def write(target: Path) -> None:
            nonlocal archive
            for name, writer in (("adapter", write_adapter), ("state", write_state)):
                (target / name).mkdir()
                writer(target / name)
            packed = target / ADAPTER_ARCHIVE
            artifacts.pack(target / "adapter", packed)
            archive = Stored(packed.stat().st_size, artifacts.sha256_of(packed))

        # Before the transaction: a large archive must not keep the job's row locked.
        self._patiently(lambda: self.store.publish(folder, write))
        total_bytes = self._patiently(lambda: self.store.size(folder))
        state_bytes = self._patiently(lambda: self.store.size(f"{folder}/state"))

        def record(session: Session) -> list[str]:
            attempts.fence(session, self.claimed, num_losses=0, lost=None)
            checkpoints.put(
                session,
                self.claimed.job_id,
                step=step,
                attempt=self.claimed.attempt,
                folder=folder,
                archive_sha256=archive.sha256,
                archive_bytes=archive.num_bytes,
                kept_bytes=total_bytes - state_bytes,
                state_bytes=state_bytes,
                metrics=_checkpoint_metrics(step, row),
            )
            return self._forget_old(session)

        for unneeded in self._committed(record):
            self._patiently(partial(self.store.remove, unneeded))
        self._full = self._committed(self._why_full)  # just now nothing is lost by a pause

    def _forget_old(self, session: Session) -> list[str]:
        """The folders that nothing needs once there is one checkpoint more."""
        old = checkpoints.resumable(session, self.claimed.job_id)[KEPT_STATES:]
        for checkpoint in old:
            checkpoints.forget_state(session, checkpoint.id)
        retired = [one.folder for one in checkpoints.retire(session, self.claimed.job_id)]
        return [f"{one.folder}/state" for one in old] + retired

    def _why_full(self, session: Session) -> str | None:
        """What the job is paused with where its project stores as much as it may."""
        project_id = session.get_one(Job, self.claimed.job_id).project_id
        default = self.default_quota
        if storage.limit_of(session, project_id, default=default) is None:
            return None
        stored = storage.of(session, project_id, default=default)
        return None if stored.room else f"{PAUSED} {stored.sentence} {storage.WHAT_TO_DELETE}"

    def note(self, message: str, *, level: str = "info", **values: Any) -> None:
        """Add an event and set columns of the job's row."""

        def write(session: Session) -> None:
            attempts.fence(session, self.claimed, **values)
            events.add(session, self.claimed.job_id, message, level=level)

        self._behind.do(lambda: self._committed(write))

    def note_spent(self, spent: Json) -> None:
        """Store what the job has spent of its limits."""
        self._behind.do(
            lambda: self._committed(
                lambda session: attempts.fence(session, self.claimed, spent=spent)
            )
        )

    def resolve(self, resolved: Json) -> None:
        """Store what the first attempt decided, for every later one. It is written at once."""
        self._committed(lambda session: attempts.fence(session, self.claimed, resolved=resolved))

    def _committed(self, write: Callable[[Session], Any]) -> Any:
        def work() -> Any:
            with transaction(self.sessions) as session:
                return write(session)

        return self._patiently(work)

    def _patiently(self, work: Callable[[], Any]) -> Any:
        """Do it, again where database or store are away for a moment or a disk is full."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        for retry in range(MAX_RETRIES):
            try:
                return work()
            except Exception as error:
                is_passing = isinstance(error, PASSING) or disk.is_full(error)
                is_last = retry == MAX_RETRIES - 1 or time.monotonic() > give_up_at
                if not is_passing or is_last:
                    raise
                log.warning("a write was not taken, trying again: %s", error)
                time.sleep(RETRY_SECONDS)
        raise AssertionError("unreachable")


def metrics_row(result: StepResult) -> Json:
    """A step's numbers under every name its readers use: TRL's, and OpenAI's in both spellings."""
    numbers = {name: value for name, value in result.metrics.items() if value is not None}
    # JSON has no NaN; a database that keeps JSON would refuse the row.
    row: Json = {name: value for name, value in numbers.items() if math.isfinite(value)}
    row |= openai_metrics.flat(result)
    if result.evaluation is not None:
        row.update(_evaluation_row(result.evaluation))
    return row


def _evaluation_row(evaluation: Evaluation) -> Json:
    return {
        "eval_num_rows": len(evaluation.rewards),
        "eval_num_errors": sum(one.is_failed for one in evaluation.graded),
    }


def _samples(group: Group) -> Iterator[Json]:
    row: Row = group.prompt.payload
    for rollout, graded, advantage in zip(
        group.rollouts, group.graded, group.advantages, strict=True
    ):
        yield {
            "row": group.prompt.index,
            "messages": row.messages,
            "item": row.item,
            "sample_index": rollout.sample_index,
            "output_text": graded.text,
            **({"output_tools": graded.tool_calls} if row.tools else {}),
            "reward": graded.reward,
            "components": graded.components,
            "errors": graded.errors,
            "advantage": advantage,
            "num_tokens": len(rollout.completion_ids),
            "finish_reason": rollout.finish_reason,
        }


def _sentence(row: Json, step: int, total_steps: int) -> str:
    parts = [f"Step {step}/{total_steps} "]
    if row.get("train_mean_reward") is not None:
        parts.append(f" train mean reward={row['train_mean_reward']:.2f}")
    if row.get("full_valid_mean_reward") is not None:
        parts.append(f" full validation mean reward={row['full_valid_mean_reward']:.2f}")
    if row.get("full_valid_mean_parse_error") is not None:
        error = row["full_valid_mean_parse_error"]
        parts.append(f" full validation mean parse error={error:.2f}")
    return ",".join(parts)


def _checkpoint_metrics(step: int, row: Json) -> Json:
    """Both spellings of the rewards, and the names of OpenAI's checkpoints; null where unknown."""
    flat = {name: row.get(name) for name in (*openai_metrics.FLAT, "loss")}
    return {"step": step, **flat, "train_loss": row.get("loss"), "scores": row.get("scores")}
