"""README's performance table, made from the rows under `benchmarks/results/`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- made by `make bench` from benchmarks/results -->", "<!-- end of what is made -->"

HEADINGS = ("workload", "Honed s/step", "TRL at its best", "TRL's defaults", "step", "sampling",
            "training", "peak memory", "mean length")  # fmt: skip
# What a row says of itself beside its numbers.
SURROUNDINGS = {"benchmark", "machine", "versions", "date"}

Row = dict[str, Any]


def rows() -> list[Row]:
    """Return every row that is kept, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def section(found: Sequence[Row]) -> str:
    """Return what stands between the markers."""
    against = [row for row in found if "workload" in row]
    measured = [row for row in against if row["note"] is None]
    lines = [*_table(HEADINGS, [_compared(row) for row in measured]), ""] if measured else []
    waiting = [row["workload"]["name"] for row in against if row["note"] is not None]
    if waiting:
        names = ", ".join(f"`{name}`" for name in waiting)
        lines += [f"Not measured on a GPU (they ran on a CPU at a small size): {names}.", ""]
    others = [row for row in found if "workload" not in row]
    if others:
        lines += [*_table(("benchmark", "measured"), [_told(row) for row in others]), ""]
    lines += [f"- {surrounding}" for surrounding in dict.fromkeys(map(_surroundings, found))]
    return "\n".join(lines).strip() + "\n"


def _compared(row: Row) -> tuple[str, ...]:
    kinds = {one["kind"]: one for one in reversed(row["rows"])}
    tuned = [one["seconds"]["end_to_end"] for one in row["rows"] if one["kind"] == "best"]
    ours, workload = kinds["honed"], row["workload"]
    share = ours["mean_length"] / workload["max_completion_tokens"]
    return (
        f"`{workload['name']}` {workload['dtype']}",
        f"{ours['seconds']['end_to_end']:.3g}",
        f"{min(tuned):.3g}",
        f"{kinds['defaults']['seconds']['end_to_end']:.3g}" if "defaults" in kinds else "",
        f"**{row['ratio_end_to_end']:.2f}x**",
        f"{row['ratio_sampling']:.2f}x",
        f"{row['ratio_training']:.2f}x",
        f"{row['peak_memory_ratio']:.2f}",
        f"{ours['mean_length']:.3g} of {workload['max_completion_tokens']} ({share:.0%})",
    )


def _told(row: Row) -> tuple[str, str]:
    numbers = [
        f"{name} {value}"
        for name, value in row.items()
        if name not in SURROUNDINGS and not isinstance(value, dict | list)
    ]
    return f"`{row['benchmark']}`", ", ".join(numbers)


def _surroundings(row: Row) -> str:
    where, with_what = row["machine"], row["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in with_what.items())
    device = f"{where['gpu']}, " if where["gpu"] else ""
    return (
        f"{row['date'][:10]}: {device}{where['cpu']}, {where['cores']} cores, "
        f"{where['memory_gb']} GB; {packages}"
    )


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *lines)]


def with_section(text: str, made: str) -> str:
    """Return README's text with what was made between its markers."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{made}{END}{after}"


def write() -> None:
    """Make README's table anew."""
    README.write_text(with_section(README.read_text(), section(rows())))


if __name__ == "__main__":
    write()
