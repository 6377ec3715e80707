"""From steps to medians, from medians to ratios, and the table that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from benchmarks.presets import Workload
from benchmarks.rows import Row
from benchmarks.side import Measured

PHASES = ("sampling", "grading", "training", "end_to_end")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row's medians over the steps behind its warm-up."""

    row: Row
    seconds: dict[str, float]
    other_seconds: float
    """Of a step, what is none of its phases: bookkeeping, logging, loading data."""
    range_seconds: tuple[float, float]
    """The fastest and the slowest step."""
    num_steps: int
    tokens_a_second: float
    tokens_a_step: float
    peak_bytes: int
    mean_length: float
    min_length: int
    max_length: int
    live_share: float
    """Share of groups whose rewards differed."""
    settings: dict[str, Any]


def summary(row: Row, measured: Measured) -> Summary:
    """Return the medians of a row's steps, its warm-up left out."""
    steps = measured.steps[row.num_warmup_steps :]
    lengths = [length for step in steps for length in step.lengths]
    totals = [step.end_to_end for step in steps]
    return Summary(
        row=row,
        seconds={phase: median(getattr(step, phase) for step in steps) for phase in PHASES},
        other_seconds=median(
            step.end_to_end - step.sampling - step.grading - step.training for step in steps
        ),
        range_seconds=(min(totals), max(totals)),
        num_steps=len(steps),
        tokens_a_second=median(sum(step.lengths) / step.end_to_end for step in steps),
        tokens_a_step=len(lengths) / len(steps) * fmean(lengths),
        peak_bytes=measured.peak_bytes,
        mean_length=fmean(lengths),
        min_length=min(lengths),
        max_length=max(lengths),
        live_share=fmean(step.num_live_groups / step.num_groups for step in steps),
        settings=measured.settings,
    )


def best(summaries: Sequence[Summary]) -> Summary | None:
    """Return TRL's fastest tuned row, or None where none ran."""
    tuned = [one for one in summaries if one.row.kind == "best"]
    return min(tuned, key=lambda one: one.seconds["end_to_end"], default=None)


def ratios(summaries: Sequence[Summary]) -> dict[str, float | None]:
    """Return TRL's best seconds over Honed's, and Honed's peak memory over TRL's best's."""
    [ours] = [one for one in summaries if one.row.kind == "honed"]
    theirs = best(summaries)
    defaults = next((one for one in summaries if one.row.kind == "defaults"), None)

    def ratio(other: Summary | None, phase: str) -> float | None:
        return round(other.seconds[phase] / ours.seconds[phase], 2) if other else None

    return {
        "ratio_end_to_end": ratio(theirs, "end_to_end"),
        "ratio_sampling": ratio(theirs, "sampling"),
        "ratio_training": ratio(theirs, "training"),
        "ratio_tokens_a_second": round(ours.tokens_a_second / theirs.tokens_a_second, 2)
        if theirs
        else None,
        "peak_memory_ratio": round(ours.peak_bytes / theirs.peak_bytes, 2) if theirs else None,
        "ratio_end_to_end_defaults": ratio(defaults, "end_to_end"),
        "peak_memory_ratio_defaults": round(ours.peak_bytes / defaults.peak_bytes, 2)
        if defaults
        else None,
    }


HEADINGS = ("", "sampling s", "grading s", "training s", "other s", "step s (min-max)", "tokens/s",
            "peak GB", "length mean/min/max", "of limit", "live")  # fmt: skip


def table(summaries: Sequence[Summary], workload: Workload) -> str:
    """Return the rows as text, TRL's best marked."""
    fastest = best(summaries)
    lines: list[Sequence[str]] = [HEADINGS]
    for one in summaries:
        low, high = one.range_seconds
        lines.append(
            (
                one.row.name + (" <- best" if one is fastest else ""),
                *(f"{one.seconds[phase]:.3f}" for phase in PHASES[:3]),
                f"{one.other_seconds:.3f}",
                f"{one.seconds['end_to_end']:.3f} ({low:.3f}-{high:.3f}, n={one.num_steps})",
                f"{one.tokens_a_second:.0f}",
                f"{one.peak_bytes / 1e9:.2f}",
                f"{one.mean_length:.1f}/{one.min_length}/{one.max_length}",
                f"{one.mean_length / workload.max_completion_tokens:.0%}",
                f"{one.live_share:.0%}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
