"""What is measured of the whole system, under which names, in which unit and by which labels.

Counters and histograms are added up in the database, by every process that has something to count;
gauges are asked of the tables, or of the machine, when they are shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A name of Prometheus, what it means, and the labels that each of its numbers carries."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counter(Measure):
    """Only grows. Its name ends in `_total`."""


@dataclass(frozen=True)
class Histogram(Measure):
    """How many observations were at most so large."""

    bounds: tuple[float, ...] = ()

    def bound_of(self, value: float) -> float:
        """The smallest bound that holds the value; infinity where none does."""
        return next((bound for bound in self.bounds if value <= bound), math.inf)


@dataclass(frozen=True)
class Gauge(Measure):
    """How things stand now."""


# From a call that takes no time to one that waits for a judge; from a starter's step to a day's.
_CALLS = (0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0)
_STEPS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_WAITS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)
_ANSWERS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

QUEUE_SECONDS = Histogram(
    "grpo_job_queue_seconds",
    "From when a job could be claimed to its claim, for every attempt; a back-off is no part of it",
    bounds=_WAITS,
)
STEP_SECONDS = Histogram(
    "grpo_job_step_seconds",
    "How long training steps took; one that a resumed attempt did again counts again",
    bounds=_STEPS,
)
REWARD_CALL_SECONDS = Histogram(
    "grpo_reward_call_seconds",
    "How long a grader took for one completion, by the grader's type",
    ("kind",),
    bounds=_CALLS,
)
REWARD_ERRORS = Counter(
    "grpo_reward_errors_total", "Grades that failed, by the kind of error", ("code",)
)
LOSSES = Counter(
    "grpo_job_losses_total", "Attempts that were lost and had to be done again", ("reason",)
)
ENDS = Counter("grpo_job_ends_total", "Jobs that ended, by state and reason", ("state", "reason"))
REQUESTS = Counter(
    "grpo_http_requests_total", "Answers of the service", ("route", "method", "status")
)
REQUEST_SECONDS = Histogram(
    "grpo_http_request_seconds",
    "From a request to the head of its answer, by route",
    ("route",),
    bounds=_ANSWERS,
)
REFUSALS = Counter(
    "grpo_admission_refusals_total",
    "What was to be made and was turned away for want of room or a place (429, 503, a full quota)",
    ("code",),
)

TALLIED: tuple[Counter | Histogram, ...] = (
    QUEUE_SECONDS,
    STEP_SECONDS,
    REWARD_CALL_SECONDS,
    REWARD_ERRORS,
    LOSSES,
    ENDS,
    REQUESTS,
    REQUEST_SECONDS,
    REFUSALS,
)

JOBS = Gauge("grpo_jobs", "Jobs, by state", ("state",))
OLDEST_QUEUED_SECONDS = Gauge(
    "grpo_job_oldest_queued_seconds", "How long the job has waited that could be claimed first"
)
LEASE_AGE_SECONDS = Gauge(
    "grpo_worker_lease_age_seconds",
    "Since when a worker's most silent lease was not renewed",
    ("worker",),
)
OUTBOX_PENDING = Gauge(
    "grpo_outbox_pending", "Jobs that wait for a worker and that no doorbell was rung for lately"
)
GPU_MEMORY_BYTES = Gauge(
    "grpo_gpu_memory_bytes", "Memory in use of a GPU that trains a job", ("worker", "device")
)
GPU_MEMORY_TOTAL_BYTES = Gauge(
    "grpo_gpu_memory_total_bytes", "Memory of a GPU that trains a job", ("worker", "device")
)
DEVICES = Gauge("grpo_devices", "Devices that workers offer, by what is known of them", ("status",))
DISK_USED_BYTES = Gauge("grpo_disk_used_bytes", "In use of the disk under the data folder")
DISK_FREE_BYTES = Gauge("grpo_disk_free_bytes", "Free on the disk under the data folder")
DATABASE_UP = Gauge("grpo_database_up", "1 while the database answers, else 0")
BUILD_INFO = Gauge("grpo_build_info", "1, with the version of this service", ("version",))
