"""Metrics, samples and checkpoints out of the trainer process: every write carries its attempt."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from jobs import artifacts
from jobs.artifacts import ArtifactStore
from jobs.datasets import Row
from jobs.db import now, transaction
from jobs.models import Json
from jobs.store import attempts, checkpoints, events, metrics
from jobs.store.attempts import Claim
from worker.grpo.types import Evaluation, Group, StepResult

log = logging.getLogger(__name__)

# A database that restarts is waited for; the lease decides whether the wait was too long.
RETRY_SECONDS = 2.0
MAX_RETRIES = 15
KEPT_STATES = 2
MAX_SAMPLES_A_STEP = 64


class Reporter:
    """One attempt's pen. Raises LeaseLost as soon as the job is another attempt's."""

    def __init__(
        self, sessions: sessionmaker[Session], store: ArtifactStore, claimed: Claim
    ) -> None:
        self.sessions = sessions
        self.store = store
        self.claimed = claimed

    def step(self, result: StepResult, *, total_steps: int, seconds_left: float | None) -> Json:
        """Write the step's metrics row, samples, counters and event in one transaction."""
        row = metrics_row(result)
        samples = [one for group in result.groups for one in _samples(group)][:MAX_SAMPLES_A_STEP]

        def write(session: Session) -> None:
            counted: dict[str, Any] = {"step": result.step}
            if row.get("num_tokens") is not None:
                counted["trained_tokens"] = int(row["num_tokens"])
            if seconds_left is not None:
                counted["estimated_finish_at"] = now() + seconds_left
            attempts.fence(session, self.claimed, **counted)
            job_id, attempt = self.claimed.job_id, self.claimed.attempt
            metrics.put(session, job_id, step=result.step, attempt=attempt, data=row)
            if samples:
                metrics.put_samples(
                    session, job_id, step=result.step, attempt=attempt, samples=samples
                )
            events.add(
                session,
                job_id,
                _sentence(row, result.step, total_steps),
                type="metrics",
                data={"step": result.step, "total_steps": total_steps, **row},
            )

        self._committed(write)
        return row

    def checkpoint(
        self,
        step: int,
        *,
        write_adapter: Callable[[Path], None],
        write_state: Callable[[Path], None],
        row: Json,
    ) -> None:
        """Publish adapter and training state of a finished step: bytes first, then the row."""
        folder = f"jobs/{self.claimed.job_id}/attempt-{self.claimed.attempt}/step-{step}"

        def write(target: Path) -> None:
            for name, writer in (("adapter", write_adapter), ("state", write_state)):
                (target / name).mkdir()
                writer(target / name)
            artifacts.pack(target / "adapter", target / "adapter.tar")

        archive = self.store.publish(folder, write) / "adapter.tar"

        def record(session: Session) -> list[str]:
            attempts.fence(session, self.claimed, num_losses=0)
            checkpoints.put(
                session,
                self.claimed.job_id,
                step=step,
                attempt=self.claimed.attempt,
                folder=folder,
                archive_sha256=artifacts.sha256_of(archive),
                archive_bytes=archive.stat().st_size,
                metrics=_checkpoint_metrics(step, row),
            )
            old = checkpoints.resumable(session, self.claimed.job_id)[KEPT_STATES:]
            for checkpoint in old:
                checkpoints.forget_state(session, checkpoint.id)
            return [checkpoint.folder for checkpoint in old]

        for forgotten in self._committed(record):
            self.store.remove(f"{forgotten}/state")

    def note(self, message: str, *, level: str = "info", **values: Any) -> None:
        """Add an event and set columns of the job's row."""

        def write(session: Session) -> None:
            attempts.fence(session, self.claimed, **values)
            events.add(session, self.claimed.job_id, message, level=level)

        self._committed(write)

    def resolve(self, resolved: Json) -> None:
        """Store what the first attempt decided, for every later one."""
        self._committed(lambda session: attempts.fence(session, self.claimed, resolved=resolved))

    def _committed(self, write: Callable[[Session], Any]) -> Any:
        for retry in range(MAX_RETRIES):
            try:
                with transaction(self.sessions) as session:
                    return write(session)
            except OperationalError as error:
                if retry == MAX_RETRIES - 1:
                    raise
                log.warning("the database did not take a write, trying again: %s", error)
                time.sleep(RETRY_SECONDS)
        raise AssertionError("unreachable")


def metrics_row(result: StepResult) -> Json:
    """A step's numbers under every name its readers use: TRL's, and OpenAI's in both spellings."""
    numbers = {name: value for name, value in result.metrics.items() if value is not None}
    # JSON has no NaN; a database that keeps JSON would refuse the row.
    row: Json = {name: value for name, value in numbers.items() if math.isfinite(value)}
    reward = row.get("reward")
    if reward is not None:
        row["train_reward_mean"] = row["train_mean_reward"] = reward
        row["completion_tokens_mean"] = row.get("completions/mean_length")
    if result.evaluation is not None:
        row.update(_evaluation_row(result.evaluation))
    return row


def _evaluation_row(evaluation: Evaluation) -> Json:
    return {
        "valid_reward_mean": evaluation.reward,
        "full_valid_mean_reward": evaluation.reward,
        "eval_num_rows": len(evaluation.rewards),
        "eval_num_errors": sum(reward is None for reward in evaluation.rewards),
    }


def _samples(group: Group) -> list[Json]:
    row: Row = group.prompt.payload
    return [
        {
            "row": group.prompt.index,
            "messages": row.messages,
            "item": row.item,
            "sample_index": rollout.sample_index,
            "output_text": graded.text,
            "reward": graded.reward,
            "components": graded.components,
            "errors": graded.errors,
            "advantage": advantage,
            "num_tokens": len(rollout.completion_ids),
            "finish_reason": rollout.finish_reason,
        }
        for rollout, graded, advantage in zip(
            group.rollouts, group.graded, group.advantages, strict=True
        )
    ]


def _sentence(row: Json, step: int, total_steps: int) -> str:
    parts = [f"Step {step}/{total_steps} "]
    if row.get("train_mean_reward") is not None:
        parts.append(f" train mean reward={row['train_mean_reward']:.2f}")
    if row.get("full_valid_mean_reward") is not None:
        parts.append(f" full validation mean reward={row['full_valid_mean_reward']:.2f}")
    return ",".join(parts)


def _checkpoint_metrics(step: int, row: Json) -> Json:
    names = (
        "train_reward_mean",
        "train_mean_reward",
        "valid_reward_mean",
        "full_valid_mean_reward",
        "completion_tokens_mean",
        "loss",
    )
    return {"step": step, **{name: row.get(name) for name in names}}
