"""`python -m benchmarks [NAME ...]`: run benchmarks, keep a row of each, make README's table.

Each benchmark is a program whose last line is one JSON object. That object, with the machine, the
versions and the date, is the benchmark's row in `benchmarks/results/`.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks import readme
from benchmarks.machine import date, machine, versions
from benchmarks.presets import WORKLOADS
from benchmarks.readme import RESULTS, ROOT

VS_TRL = "benchmarks/vs_trl.py"
COMMANDS: dict[str, list[str]] = {
    "trl-mixed-fp32": [VS_TRL, "--workload", "mixed"],
    "trl-mixed-bf16": [VS_TRL, "--workload", "mixed", "--dtype", "bf16"],
    "trl-short-fp32": [VS_TRL, "--workload", "short"],
    "trl-long-prompt-fp32": [VS_TRL, "--workload", "long-prompt"],
    "trl-long-fp32": [VS_TRL, "--workload", "long"],
    **{
        f"trl-{name}-{workload.dtype}": [VS_TRL, "--workload", name]
        for name, workload in WORKLOADS.items()
        if workload.is_for_gpu
    },
    "graders": ["benchmarks/graders.py"],
    "latency": ["benchmarks/latency.py"],
}


def last_line(command: list[str]) -> dict[str, Any]:
    """Run a benchmark, showing what it prints; return the object that its last line is.

    Raises SystemExit where it failed or its last line is not one.
    """
    line = ""
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}.")
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise SystemExit(f"The last line of {' '.join(command)} is not a JSON object.")
    return row


def keep(name: str, row: dict[str, Any]) -> None:
    """Write a benchmark's row, with what it was measured on unless it says so itself."""
    row = {"machine": machine(), "versions": versions(), "date": date(), **row, "benchmark": name}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMMANDS))
    names = parser.parse_args().names or list(COMMANDS)
    for name in names:
        if name not in COMMANDS:
            raise SystemExit(f"There is no benchmark {name}; there are {', '.join(COMMANDS)}.")
    for name in names:
        keep(name, last_line(COMMANDS[name]))
        readme.write()


if __name__ == "__main__":
    main()
