"""What a side of the comparison is told and what it tells, in files between processes."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.presets import Dtype, Workload
from worker.grpo.order import take
from worker.grpo.resident import peak_resident_bytes
from worker.grpo.types import Prompt

PROMPTS_FILE = "prompts.json"
DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
LEARNING_RATE = 1e-6  # Lengths and rewards stay what the random model's are.
CLIP_EPS = (0.2, 0.28)
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process is to do."""

    side: str
    """The row's name in the table."""
    workload: Workload
    folder: Path
    """The prepared model and prompts."""
    device: str
    threads: int
    options: dict[str, Any] = field(default_factory=dict)
    """What this side alone understands."""

    @property
    def num_steps(self) -> int:
        """All steps, warm-up included."""
        return self.workload.num_warmup_steps + self.workload.num_steps

    def write(self, path: Path) -> None:
        """Write it for another process."""
        values = asdict(self) | {"workload": self.workload.as_dict(), "folder": str(self.folder)}
        path.write_text(json.dumps(values))

    @classmethod
    def read(cls, path: Path) -> "Task":
        """Read what `write` wrote."""
        values = json.loads(path.read_text())
        values |= {
            "workload": Workload.from_dict(values["workload"]),
            "folder": Path(values["folder"]),
        }
        return cls(**values)


@dataclass(kw_only=True)
class Step:
    """One step's seconds and what was drawn in it."""

    sampling: float
    grading: float
    training: float
    end_to_end: float
    lengths: list[int]
    num_groups: int
    num_live_groups: int
    """Groups whose rewards differ: the others teach nothing."""
    num_prompt_tokens: int


@dataclass(kw_only=True)
class Measured:
    """What a side did, step by step, warm-up included."""

    side: str
    steps: list[Step]
    peak_bytes: int
    settings: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write it for the process that asked."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Measured":
        """Read what `write` wrote."""
        values = json.loads(path.read_text())
        return cls(**values | {"steps": [Step(**step) for step in values["steps"]]})


def reward(completion_ids: Sequence[int]) -> float:
    """Return the share of even ids: cheap, and different for almost every completion."""
    return sum(token % 2 == 0 for token in completion_ids) / len(completion_ids)


def read_prompts(folder: Path) -> list[dict[str, Any]]:
    """Return the prompts of a prepared folder: `ids`, and `prompt` as TRL is given it."""
    prompts: list[dict[str, Any]] = json.loads((folder / PROMPTS_FILE).read_text())
    return prompts


def in_order_of_steps(prompts: list[dict[str, Any]], *, seed: int) -> list[dict[str, Any]]:
    """Return the prompts as Honed's trainer visits them, which TRL is then made to do too."""
    rows = [Prompt(index=i, ids=prompt["ids"]) for i, prompt in enumerate(prompts)]
    return [prompts[visit.index] for visit in take(rows, start=0, count=len(rows), seed=seed)]


class Laps:
    """Seconds since the last lap, by name, with what the device still works on waited for."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        """Return the time once the device has nothing left to do."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the time within to `name`."""
        started = self.now()
        try:
            yield
        finally:
            self.add(name, self.now() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to `name`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Return the seconds of this lap and begin the next."""
        seconds, self.seconds = self.seconds, {}
        return seconds


def peak_bytes(device: str) -> int:
    """Return the most memory that was in use: the process's on a CPU, the tensors' on a GPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_resident_bytes()


def live_groups(rewards: list[float], group_size: int) -> int:
    """Return how many groups of neighbours have rewards that differ."""
    groups = [rewards[i : i + group_size] for i in range(0, len(rewards), group_size)]
    return sum(max(group) > min(group) for group in groups)
