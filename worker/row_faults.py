"""What is said of a file's bad rows: the line of each, and the reasons of the first."""

from __future__ import annotations

from collections.abc import Iterable

from jobs.datasets import RowFault
from jobs.models import Json

MAX_REASONS_SHOWN = 20
MAX_RANGES_SHOWN = 200
# An event is a row of the database.
MAX_FAULTS_TOLD = 1000


def sentence(filename: str, faults: list[RowFault]) -> str:
    """`a.jsonl: 22 rows cannot be used. line 3: ...; line 9: ...; and 2 more, on lines 31-32`."""
    shown = "; ".join(str(fault) for fault in faults[:MAX_REASONS_SHOWN])
    rest = faults[MAX_REASONS_SHOWN:]
    count = "1 row" if len(faults) == 1 else f"{len(faults)} rows"
    more = f"; and {len(rest)} more, on lines {_ranges(fault.line for fault in rest)}"
    return f"{filename}: {count} cannot be used. {shown}" + (more if rest else "")


def told(faults: list[RowFault]) -> list[Json]:
    """The same for programs, in the event's `data`."""
    return [{"line": fault.line, "reason": fault.reason} for fault in faults[:MAX_FAULTS_TOLD]]


def _ranges(lines: Iterable[int]) -> str:
    """Ascending line numbers as `3-5, 9`."""
    ranges: list[tuple[int, int]] = []
    for line in lines:
        if ranges and ranges[-1][1] == line - 1:
            ranges[-1] = (ranges[-1][0], line)
        else:
            ranges.append((line, line))
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    cut = f" and {len(parts) - MAX_RANGES_SHOWN} other ranges" * (len(parts) > MAX_RANGES_SHOWN)
    return ", ".join(parts[:MAX_RANGES_SHOWN]) + cut
