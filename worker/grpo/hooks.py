"""How the caller watches a run and stops it, and how the run times itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from worker.grpo.types import Phase


@dataclass(frozen=True, slots=True)
class Hooks:
    """Both are called often (every token, every rollout) and should return at once."""

    interrupt: Callable[[], None] = lambda: None
    """Called at every decode step, before every pass through the model while training, and while
    waiting for grades (every 0.2 seconds). Raises `Interrupted` to stop the run."""
    progress: Callable[[Phase, int, int], None] = lambda phase, done, total: None
    """Called with (phase, done, total) as a phase moves on."""


class Stopwatch:
    """Seconds spent in each phase of a step."""

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = {}

    @contextmanager
    def timing(self, phase: Phase) -> Iterator[None]:
        """Add the time within to the phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed
