"""Honed's engine against TRL, in one run on one machine: `make bench-trl WORKLOAD=mixed`.

    python benchmarks/vs_trl.py --workload mixed [--dtype bf16] [--group-size 8] ...

Each row is a process of its own, one after the other, on the same weights, prompts, seed, limits,
adapter, dtype and number of threads. The last line is one JSON object whose ratios are TRL's
fastest tuned row over Honed (seconds), and Honed over that row (memory).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # So that it also runs as a file.

from benchmarks.compare import Summary, ratios, summary, table
from benchmarks.machine import best_threads, date, machine, versions
from benchmarks.material import prepare
from benchmarks.presets import SHAPES, STARTER, WORKLOADS, Workload, shrunk
from benchmarks.rows import Row, rows_of
from benchmarks.side import Measured, Task
from worker import plan

ROOT = Path(__file__).resolve().parents[1]
NOT_ON_GPU = "not measured on a GPU"
# Flags that are a field of `Workload` under the same name.
NUMBERS = ("num_prompts", "group_size", "prompt_tokens", "prompt_spread", "max_completion_tokens",
           "lora_rank", "seed", "num_warmup_steps", "num_steps")  # fmt: skip


class Failed(Exception):
    """A row's process ended with an error; the message holds its last lines."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the flags; those that were not given are None and leave the workload's own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=WORKLOADS, default="mixed")
    parser.add_argument("--model", choices=[*SHAPES, STARTER], help="size and architecture")
    for field in fields(Workload):
        if field.name in NUMBERS:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=int)
    parser.add_argument("--mean-share", type=float, help="mean length over the limit")
    parser.add_argument("--lora-targets")
    parser.add_argument("--dtype", choices=["fp32", "bf16"])
    parser.add_argument(
        "--trl-micro-batches", type=int, nargs="+", help="rollouts a pass of TRL, a row each"
    )
    parser.add_argument("--micro-batch-tokens", type=int, help="tokens a pass of Honed")
    parser.add_argument("--threads", type=int, help="on both sides; probed unless given")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument(
        "--only", choices=["honed", "best", "defaults"], nargs="+", help="rows to run"
    )
    return parser.parse_args(arguments)


def workload_of(flags: argparse.Namespace, device: str) -> Workload:
    """Return the workload that the flags ask for; a GPU's is small on a CPU."""
    workload = WORKLOADS[flags.workload]
    if workload.is_for_gpu and device == "cpu":
        workload = shrunk(workload)
    changes: dict[str, Any] = {}
    for name in (*NUMBERS, "mean_share", "lora_targets", "dtype"):
        if getattr(flags, name) is not None:
            changes[name] = getattr(flags, name)
    if flags.model:
        changes["shape"] = SHAPES.get(flags.model)
    workload = replace(workload, **changes)
    splits = flags.trl_micro_batches or [
        min(split, workload.num_rollouts) for split in workload.trl_micro_batches
    ]
    for split in splits:
        if workload.num_rollouts % split:
            raise SystemExit(
                f"TRL's micro-batch must divide the {workload.num_rollouts} completions of a step: "
                f"{split} does not. Choose with --trl-micro-batches."
            )
    return replace(workload, trl_micro_batches=tuple(splits))


def run_row(row: Row, workload: Workload, *, folder: Path, device: str, threads: int) -> Summary:
    """Run a row in a process of its own. Raises Failed."""
    task = Task(
        side=row.name,
        workload=replace(workload, num_warmup_steps=row.num_warmup_steps, num_steps=row.num_steps),
        folder=folder,
        device=device,
        threads=threads,
        options=row.options,
    )
    asked, told = folder / "task.json", folder / "result.json"
    task.write(asked)
    environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **row.environment}
    done = subprocess.run(
        [sys.executable, "-m", row.module, str(asked), str(told)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed("\n".join(done.stdout.strip().splitlines()[-15:]) or f"{done.returncode}")
    return summary(row, Measured.read(told))


def run_all(
    rows: list[Row], workload: Workload, *, folder: Path, device: str, threads: int
) -> tuple[list[Summary], dict[str, str]]:
    """Return what the rows measured, and why those failed that did."""
    summaries, failures = [], {}
    for row in rows:
        try:
            one = run_row(row, workload, folder=folder, device=device, threads=threads)
        except Failed as failed:
            failures[row.name] = str(failed).splitlines()[-1]
            print(f"{row.name}: failed\n{failed}", file=sys.stderr, flush=True)
            continue
        summaries.append(one)
        print(f"{row.name}: {one.seconds['end_to_end']:.3f} s a step", flush=True)
    return summaries, failures


def row_of(one: Summary) -> dict[str, Any]:
    """Return a summary as JSON keeps it."""
    values = asdict(one)
    row = values.pop("row")
    return {"name": row["name"], "kind": row["kind"], "environment": row["environment"]} | values


def main(arguments: list[str] | None = None) -> int:
    flags = parse(arguments)
    device = flags.device or ("cuda" if torch.cuda.is_available() else "cpu")
    workload = workload_of(flags, device)
    where = machine()  # Before the run: its load is that of others.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(workload, folder)
        threads = flags.threads or best_threads(prepared.hidden_size)
        budget = flags.micro_batch_tokens or plan.micro_batch_tokens(prepared.num_weights, device)
        rows = [
            row
            for row in rows_of(workload, device=device, micro_batch_tokens=budget)
            if not flags.only or row.kind in flags.only
        ]
        summaries, failures = run_all(rows, workload, folder=folder, device=device, threads=threads)
    kinds = {one.row.kind for one in summaries}
    result = {
        "benchmark": f"trl-{workload.name}-{workload.dtype}",
        "note": NOT_ON_GPU if workload.is_for_gpu and device == "cpu" else None,
        **(ratios(summaries) if "honed" in kinds else {}),
        "workload": workload.as_dict(),
        "device": device,
        "threads": threads,
        "machine": where,
        "versions": versions(),
        "date": date(),
        "rows": [row_of(one) for one in summaries],
        "failures": failures,
    }
    print(f"\n{heading(result)}\n{table(summaries, workload)}")
    print(json.dumps(result))
    return 0 if {row.kind for row in rows} <= kinds else 1


def heading(result: dict[str, Any]) -> str:
    """Return what the table is of, in one line."""
    workload = result["workload"]
    note = f" ({result['note']})" if result["note"] else ""
    return (
        f"{workload['name']}, {workload['dtype']}, {result['device']}, {result['threads']} "
        f"threads: {workload['num_prompts']} prompts x {workload['group_size']}, at most "
        f"{workload['max_completion_tokens']} new tokens{note}"
    )


if __name__ == "__main__":
    sys.exit(main())
