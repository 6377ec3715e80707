"""What a job may spend before it is paused, and what it has spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

_Count = Annotated[int, Field(strict=True, ge=1, le=10**12)]


class Limits(BaseModel):
    """At the first of them the job is paused with a checkpoint; a resume grants them once more."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    max_seconds: Annotated[float, Field(strict=True, gt=0, le=10**9)] | None = None
    """Seconds that attempts run."""
    max_judge_requests: _Count | None = None
    """Requests sent to judges, each retry included, as it is billed; kept answers send none."""
    max_judge_tokens: _Count | None = None
    """Tokens of questions and answers; what is under way when they are spent comes on top."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Limits:
        if not self.model_dump(exclude_none=True):
            raise ValueError(
                "it bounds nothing: give max_seconds, max_judge_requests or max_judge_tokens"
            )
        return self


@dataclass(frozen=True)
class Reached:
    """Which limit is reached."""

    name: str
    limit: float

    @property
    def is_time(self) -> bool:
        return self.name == "max_seconds"

    @property
    def sentence(self) -> str:
        return (
            f"The job is paused at its limit {self.name} = {self.limit:g}. "
            "Resume it to grant the limits once more."
        )


class Spent(BaseModel):
    """Counted against the limits."""

    seconds: float = 0.0
    judge_requests: int = 0
    judge_tokens: int = 0

    def reached(self, limits: Limits) -> Reached | None:
        """The first limit that is reached, or None."""
        for name, spent, limit in (
            ("max_seconds", self.seconds, limits.max_seconds),
            ("max_judge_requests", self.judge_requests, limits.max_judge_requests),
            ("max_judge_tokens", self.judge_tokens, limits.max_judge_tokens),
        ):
            if limit is not None and spent >= limit:
                return Reached(name, limit)
        return None
