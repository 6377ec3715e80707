"""The system's numbers as Prometheus reads them: tallies, how the tables stand, this machine."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from jobs import disk
from jobs import monitoring as measures
from jobs.monitoring import Counter, Gauge, Histogram
from jobs.settings import Settings
from jobs.store import standing, tallies
from jobs.store.standing import Standing
from service.traffic import Traffic

logger = logging.getLogger(__name__)

# However many scrape, and however often, the database is asked once in this long.
FRESH_SECONDS = 1.0

Labelled = dict[tuple[str, ...], float]


@dataclass(eq=False)
class Monitoring(Collector):
    """What `/metrics` shows. Threads share one."""

    settings: Settings
    sessions: sessionmaker[Session]
    traffic: Traffic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _families: list[Metric] = field(default_factory=list)
    _looked_at: float = -math.inf

    def collect(self) -> list[Metric]:
        """Every family. Without a database those that need none, and that it is away."""
        with self._lock:
            if time.monotonic() - self._looked_at > FRESH_SECONDS:
                self._families = [*self._of_database(), *_of_machine(self.settings.data_dir)]
                self._looked_at = time.monotonic()
            return self._families

    def _of_database(self) -> list[Metric]:
        try:
            self.traffic.write(self.sessions)
            with self.sessions() as session:
                stands = standing.look(session, lease_seconds=self.settings.lease_seconds)
                counted = list(tallies.read(session))
        except SQLAlchemyError as error:
            logger.error("the database does not answer: %s", error)
            return [_gauge(measures.DATABASE_UP, {(): 0})]
        return [
            _gauge(measures.DATABASE_UP, {(): 1}),
            *_of_tables(stands),
            *_of_tallies(counted),
        ]


def _of_machine(folder: Path) -> Iterator[Metric]:
    yield _gauge(measures.BUILD_INFO, {(version("honed"),): 1})
    usage = shutil.disk_usage(disk.existing(folder))  # before anything is kept there is none
    yield _gauge(measures.DISK_USED_BYTES, {(): usage.used})
    yield _gauge(measures.DISK_FREE_BYTES, {(): usage.free})


def _of_tables(stands: Standing) -> Iterator[Metric]:
    yield _gauge(measures.JOBS, {(state,): number for state, number in stands.jobs.items()})
    yield _gauge(measures.OLDEST_QUEUED_SECONDS, {(): stands.oldest_queued_seconds})
    yield _gauge(measures.OUTBOX_PENDING, {(): stands.num_owed})
    yield _gauge(measures.DEVICES, {(status,): number for status, number in stands.devices.items()})
    ages: Labelled = {(worker,): leases.oldest_seconds for worker, leases in stands.workers.items()}
    yield _gauge(measures.LEASE_AGE_SECONDS, ages)
    for measure, key in (
        (measures.GPU_MEMORY_BYTES, "used_bytes"),
        (measures.GPU_MEMORY_TOTAL_BYTES, "total_bytes"),
    ):
        found: Labelled = {
            (worker, str(gpu["device"])): float(gpu[key])
            for worker, leases in stands.workers.items()
            for gpu in leases.gpus
        }
        yield _gauge(measure, found)


def _of_tallies(counted: Iterable[tuple[str, dict[str, str], float]]) -> Iterator[Metric]:
    by_name: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for name, labels, value in counted:
        by_name[name].append((labels, value))
    for measure in measures.TALLIED:
        found = by_name[measure.name]
        if isinstance(measure, Counter):
            family = CounterMetricFamily(measure.name, measure.help, labels=measure.labels)
            for labels, value in found:
                family.add_metric(_values(measure, labels), value)
            yield family
        else:
            yield _histogram(measure, found)


def _histogram(
    measure: Histogram, found: Iterable[tuple[Mapping[str, str], float]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(measure.name, measure.help, labels=measure.labels)
    sums: Labelled = {}
    buckets: dict[tuple[str, ...], dict[float, float]] = defaultdict(dict)
    for labels, value in found:
        values = _values(measure, labels)
        if tallies.BUCKET in labels:
            buckets[values][float(labels[tallies.BUCKET])] = value
        else:
            sums[values] = value
    if not measure.labels:
        sums.setdefault((), 0.0)  # shown from the beginning, so that the first one is a rise
    for values, total in sums.items():
        # Of the bounds of today, and those under which an earlier version counted.
        bounds = sorted({*measure.bounds, *buckets[values], math.inf})
        cumulative, shown = 0.0, []
        for bound in bounds:
            cumulative += buckets[values].get(bound, 0.0)
            shown.append(("+Inf" if bound == math.inf else str(bound), cumulative))
        family.add_metric(values, shown, total)
    return family


def _values(measure: Counter | Histogram, labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels[name] for name in measure.labels)


def _gauge(measure: Gauge, numbers: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(measure.name, measure.help, labels=measure.labels)
    for values, number in numbers.items():
        family.add_metric(values, number)
    return family
