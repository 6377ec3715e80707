"""What is known of a trainer that was lost: how it ended, where it was, and what it held."""

from __future__ import annotations

from typing import Any

from jobs import halving
from jobs.errors import JobFailure, StoreAway
from jobs.models import Json
from jobs.status import Phase, Reason
from jobs.store.fitting import GB
from worker.oom_kills import OomKills
from worker.trainer_process import describe_exit, exit_name

# What a trainer does in these holds as much as it is allowed to do at a time.
GROWS_WITH_SIZES = frozenset({Phase.SAMPLING, Phase.GRADING, Phase.TRAINING, Phase.EVALUATING})


def disk_full(error: BaseException) -> JobFailure:
    """An attempt could not write what it had to: its job waits for room."""
    return JobFailure(
        Reason.DISK_FULL,
        f"The disk is full ({error}): free some room, and the job goes on by itself.",
    )


def store_away(error: StoreAway) -> JobFailure:
    """An attempt could not keep or fetch what it had to: its job waits for the store."""
    return JobFailure(
        Reason.ARTIFACTS_UNAVAILABLE,
        f"The artifact store cannot be used ({error.reason}): the job goes on once it is back.",
    )


class Evidence:
    """Gathered while a trainer runs, for the time when it does not any more."""

    def __init__(self, oom_kills: OomKills | None = None) -> None:
        self.oom_kills = oom_kills or OomKills()
        self.phase: str | None = None
        self.peak_bytes = 0

    def hear(self, message: dict[str, Any]) -> dict[str, Any]:
        """Note what a word of progress tells; the rest of it is for the job's row."""
        self.phase = message.get("phase", self.phase)
        self.peak_bytes = max(self.peak_bytes, message.get("peak_bytes", 0))
        return {key: value for key, value in message.items() if key != "peak_bytes"}

    def no_progress(self, silent_seconds: float) -> JobFailure:
        """The trainer was alive and did nothing."""
        return JobFailure(
            Reason.NO_PROGRESS,
            f"The trainer did nothing for {silent_seconds:.0f} seconds{self._where()} and was "
            "stopped.",
            data=self._data(ended=None),
        )

    def crash(self, code: int, last_line: str) -> JobFailure:
        """The trainer ended by itself, or was killed, without a word about the job."""
        ended = exit_name(code)
        if ended == "SIGKILL" and self.oom_kills.have_risen():
            return JobFailure(
                Reason.OUT_OF_MEMORY,
                "The kernel's out-of-memory killer ended the trainer process"
                f"{self._where()}{self._peak()}.",
                data=self._data(ended=ended),
            )
        said = f": {last_line}" if code > 0 else ""
        return JobFailure(
            Reason.TRAINER_CRASHED,
            f"The trainer process {describe_exit(code)}{self._where()}{self._peak()}{said}.",
            data=self._data(ended=ended),
        )

    def grows_with_sizes(self) -> bool:
        """Whether less at a time would have taken less memory where the trainer was."""
        return self.phase in GROWS_WITH_SIZES

    def alone(self, loss: JobFailure, resolved: Json) -> JobFailure:
        """The same loss, of a job that did one sequence at a time: with the length that fits."""
        longest = halving.sequence_tokens(resolved)
        num_tokens = halving.fitting_tokens(resolved, peak_bytes=self.peak_bytes)
        advice = "Not even a few tokens would fit: take a smaller model, or a larger device."
        if num_tokens:
            advice = (
                f"By its forecast one of {num_tokens:,} tokens fits: lower max_completion_tokens, "
                "or leave out long prompts."
            )
        message = (
            f"{loss.message} A single sequence of {longest:,} tokens needs more memory than there "
            f"is. {advice}"
        )
        return JobFailure(loss.reason, message, data=loss.data)

    def _where(self) -> str:
        return f" while {self.phase}" if self.phase else ""

    def _peak(self) -> str:
        return f", with {self.peak_bytes / GB:.1f} GB at its peak" if self.peak_bytes else ""

    def _data(self, *, ended: str | None) -> Json:
        return {"ended": ended, "phase": self.phase, "peak_bytes": self.peak_bytes or None}
