"""Base against adapter on the held-out rows, answered by plain `peft` and `transformers`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.registry import STARTER_FOLDER
from service.demo.rewards import Measure, Reward


class DemoFailed(Exception):
    """The demo cannot go on; the message says what was said."""


@dataclass(frozen=True)
class Comparison:
    """One measure before and after, over the same rows."""

    measure: Measure
    count: int
    before: float
    after: float
    low: float
    high: float
    """The 95 % interval of the difference."""

    def lines(self) -> list[tuple[str, str]]:
        shown = self.measure.shown
        interval = f"95 % interval {shown(self.low)} to {shown(self.high)}"
        return [
            (f"{self.measure.label}, base model", shown(self.before)),
            (f"{self.measure.label}, with the adapter", shown(self.after)),
            ("difference", f"{shown(self.after - self.before)}  ({interval})"),
        ]


def compare(held_out: Path, adapter: Path, reward: Reward) -> list[Comparison]:
    """Every measure of the reward. Raises DemoFailed when the adapter cannot be used."""
    command = [
        *("--base", str(STARTER_FOLDER), "--adapter", str(adapter)),
        *("--rows", str(held_out), "--max-tokens", str(reward.max_tokens)),
        *(("--sample",) if reward.is_sampled else ()),
    ]
    said = torch_process("worker.evaluate", command)
    with held_out.open() as lines:
        rows = [json.loads(line) for line in lines]
    return [_compared(measure, rows, said) for measure in reward.measures]


def torch_process(module: str, arguments: list[str]) -> Any:
    """The JSON that a module says; in a process of its own, since this one stays without torch."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"{module} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def _compared(measure: Measure, rows: list[dict[str, Any]], said: Any) -> Comparison:
    before = [measure.of(one["base"], row) for one, row in zip(said, rows, strict=True)]
    after = [measure.of(one["tuned"], row) for one, row in zip(said, rows, strict=True)]
    low, high = interval([new - old for old, new in zip(before, after, strict=True)])
    count = len(rows)
    return Comparison(measure, count, sum(before) / count, sum(after) / count, low, high)


def interval(differences: list[float]) -> tuple[float, float]:
    """The 95 % interval of their mean (normal approximation, the rows paired)."""
    count = len(differences)
    mean = sum(differences) / count
    variance = sum((value - mean) ** 2 for value in differences) / (count - 1)
    half = 1.96 * math.sqrt(variance / count)
    return mean - half, mean + half
