"""How fast graders are: python ones through the sandbox, cold and warm, and plain ones in place.

    python benchmarks/graders.py [--seconds 3] [--threads 4]

On two cores, as the grader type runs in a job: each call is one `grade` from one of a few threads.
The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from jobs.graders import Sample, parse_grader
from jobs.graders.python import Python
from jobs.graders.sandbox import isolation, pools

NUM_CORES = 2
TEXT = ("The answer, after 12 steps and 3 checks, is 42. " * 18)[:870]
TRIVIAL = """
def grade(sample, item):
    return float(sample["output_text"] == item["answer"])
"""
RE_AND_JSON = """
import json, math, re

def grade(sample, item):
    found = re.search(r"is (\\d+)", sample["output_text"])
    numbers = re.findall(r"\\d+", sample["output_text"])
    wanted = json.loads(item["wanted"])
    return float(found[1] == wanted["answer"]) * math.exp(-len(numbers) / 100)
"""
EXACT = {
    "type": "string_check",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
THREE_STRINGS = {
    "type": "multi",
    "graders": {"a": EXACT, "b": EXACT, "c": EXACT},
    "calculate_output": "0.5 * a + 0.3 * b + 0.2 * c",
}
ITEM = {"answer": TEXT, "wanted": json.dumps({"answer": "42", "steps": list(range(50))})}


def calls_per_second(call: Callable[[], object], *, seconds: float, threads: int) -> float:
    """Warm: a first second is not counted."""

    def until(end: float) -> int:
        count = 0
        while time.perf_counter() < end:
            call()
            count += 1
        return count

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(until, [time.perf_counter() + 1.0] * threads))
        started = time.perf_counter()
        counts = list(executor.map(until, [started + seconds] * threads))
        return sum(counts) / (time.perf_counter() - started)


def grader_of(source: str, *, calls_per_process: int | None = None) -> Python:
    with pools.on_behalf_of("benchmark"):
        return Python(type="python", source=source, calls_per_process=calls_per_process)


def rate(source: str, *, seconds: float, threads: int, calls_per_process: int | None) -> float:
    grader = grader_of(source, calls_per_process=calls_per_process)
    grader.check()
    sample = Sample(TEXT)

    def call() -> None:
        grade = grader.grade(sample, ITEM)
        assert grade.reward is not None, grade.error_detail

    return calls_per_second(call, seconds=seconds, threads=threads)


def cold_start_seconds() -> float:
    """From before the sandbox's process starts to the first verdict; the median of seven."""
    grader, sample, times = grader_of(RE_AND_JSON), Sample(TEXT), []
    for _ in range(7):
        pools.close_all()
        started = time.perf_counter()
        grade = grader.grade(sample, ITEM)
        times.append(time.perf_counter() - started)
        assert grade.reward is not None, grade.error_detail
    return statistics.median(times)


def three_strings_seconds() -> float:
    """Three string comparisons and the formula over them, for one answer; the median of many."""
    grader, sample, times = parse_grader(THREE_STRINGS), Sample(TEXT), []
    for _ in range(2000):
        started = time.perf_counter()
        grader.grade(sample, ITEM)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=4)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:NUM_CORES]
    os.sched_setaffinity(0, cores)
    options = {"seconds": arguments.seconds, "threads": arguments.threads}
    level = isolation.isolation().level  # found out once a process, so not part of a cold start
    result = {
        "benchmark": "graders",
        "level": level,
        "cores": len(cores),
        "load_average": round(os.getloadavg()[0], 2),
        "cold_start_ms": round(cold_start_seconds() * 1000, 1),
        "trivial_calls_per_second": round(rate(TRIVIAL, calls_per_process=None, **options)),
        "re_json_calls_per_second": round(rate(RE_AND_JSON, calls_per_process=None, **options)),
        "three_strings_microseconds": round(three_strings_seconds() * 1e6, 1),
        "own_process_calls_per_second": round(rate(TRIVIAL, calls_per_process=1, **options)),
    }
    pools.close_all()
    print(f"{level}: {result['trivial_calls_per_second']} trivial calls a second (2000 wanted), "
          f"{result['re_json_calls_per_second']} with re and json (1000 wanted), "
          f"{result['cold_start_ms']} ms to a first verdict (150 allowed)")  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
