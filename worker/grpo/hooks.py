"""How the caller watches a run and stops it, and how the run times itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from worker.grpo.types import Phase


@dataclass(frozen=True, slots=True)
class Hooks:
    """The first two are called often (every token, every rollout) and should return at once."""

    interrupt: Callable[[], None] = lambda: None
    """Called at every decode step, before every pass through the model while training, and while
    waiting for grades (every 0.2 seconds). Raises `Interrupted` to stop the run."""
    progress: Callable[[Phase, int, int], None] = lambda phase, done, total: None
    """Called with (phase, done, total) as a phase moves on."""
    note: Callable[[str], None] = lambda sentence: None
    """Called with a sentence when something happened that the owner of the run should know."""


class Stopwatch:
    """Seconds spent in each phase of a step, and since it began."""

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = {}
        self.started = time.perf_counter()

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the step began."""
        return time.perf_counter() - self.started

    @contextmanager
    def timing(self, phase: Phase) -> Iterator[None]:
        """Add the time within to the phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed
