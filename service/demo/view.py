"""What a person sees while the demo runs: a bar, groups of answers, the table at the end."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

ANSWERS_SHOWN = 8


class JobView:
    """The job's progress; on a terminal a live bar, elsewhere a line every ten steps."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.fields[phase]:>10}"),
            BarColumn(bar_width=30),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("reward {task.fields[reward]}"),
            TextColumn("ETA {task.fields[eta]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("job", total=1, phase="queued", reward="  - ", eta="-")

    def __enter__(self) -> JobView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, job: dict[str, Any], reward: float | None) -> None:
        """Show where the job stands; `job` is its wire form."""
        left = (job.get("estimated_finish") or 0) - time.time()
        self._bar.update(
            self._task,
            completed=job["step"],
            total=job["total_steps"] or 1,
            phase=job["phase"] or job["status"].removesuffix("_files"),
            reward="  - " if reward is None else f"{reward:.2f}",
            eta=f"{left:.0f} s" if left > 0 else "-",
        )

    def group(self, row: dict[str, Any], samples: list[dict[str, Any]], total: int) -> None:
        """One prompt's siblings: what each answered, its reward, and how far from its siblings."""
        first = samples[0]
        held_out = row.get("valid_reward_mean")
        title = f"step {row['step']}/{total}   mean reward {row['reward']:.2f}"
        if held_out is not None:
            title += f"   held-out reward {held_out:.2f}"
        self.console.print(Text(title, style="bold"))
        self.console.print(
            Text(f"  {first['messages'][-1]['content']}  (answer {first['item']['answer']})")
        )
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
        for name in ("completion", "reward", "advantage"):
            table.add_column(name, justify="left" if name == "completion" else "right")
        for sample in samples[:ANSWERS_SHOWN]:
            reward, advantage = sample["reward"], sample["advantage"]
            style = "green" if advantage > 0 else "red" if advantage < 0 else "dim"
            table.add_row(
                Text(_one_line(sample["output_text"])),
                "error" if reward is None else f"{reward:.2f}",
                Text(f"{advantage:+.2f}", style=style),
            )
        self.console.print(table)


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else flat[:57] + "..."


def result_table(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    """What it learned."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
