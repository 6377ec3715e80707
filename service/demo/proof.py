"""`honed demo --proof`: the reward is a constant in the loss, shown on two gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.registry import STARTER_FOLDER
from service.demo.compare import torch_process
from service.demo.rewards import Reward

NUM_PROMPTS = 8


def proof(folder: Path, console: Console, *, reward: Reward) -> dict[str, Any]:
    """One step's gradient by the reward function, and by a table of the numbers it gave."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "proof.jsonl"
    train, _ = reward.rows()
    rows.write_text("".join(json.dumps(row) + "\n" for row in train[:NUM_PROMPTS]))
    arguments = ["--base", str(STARTER_FOLDER), "--rows", str(rows)]
    said = torch_process("worker.proof", [*arguments, "--grader", json.dumps(reward.grader)])

    group = said["groups"][0]
    console.print(f"One of {len(said['groups'])} groups: {group['prompt']}", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for name in ("completion", "reward", "advantage (a constant in the loss)"):
        table.add_column(name, justify="left" if name == "completion" else "right")
    for columns in zip(group["completions"], group["rewards"], group["advantages"], strict=True):
        text, number, advantage = columns
        table.add_row(text, f"{number:.2f}", f"{advantage:+.4f}")
    console.print(table)
    console.print("hash of the step's gradient, over every adapter weight:")
    console.print(
        f"  graded by the function        {said['function']}", soft_wrap=True, highlight=False
    )
    console.print(
        f"  read from a table of numbers  {said['table']}", soft_wrap=True, highlight=False
    )
    is_equal = said["function"] == said["table"]
    console.print("  equal" if is_equal else "  DIFFERENT", style="green" if is_equal else "red")
    return {
        "function": said["function"],
        "table": said["table"],
        "equal": is_equal,
        "advantages": [group["advantages"] for group in said["groups"]],
    }
