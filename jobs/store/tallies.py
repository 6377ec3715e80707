"""Counters and histograms of the whole system, added up in the transactions that they count.

What a transaction counts is kept with its session and written right before its commit: a rollback
counts nothing, and as the rows are taken in one order at the very end, no two transactions wait
for each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from jobs.models import Tally
from jobs.monitoring import Counter, Histogram
from jobs.store.projects import INSERT

# The label under which the observations of one bucket stand; without it stands their sum.
BUCKET = "le"

_KEY = "tallies"


class Tallies:
    """What was counted and is not written yet."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], float] = {}

    def __bool__(self) -> bool:
        return bool(self._values)

    def count(self, counter: Counter, number: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self._add(counter.name, labels, number)

    def observe(self, histogram: Histogram, value: float, **labels: str) -> None:
        """Add an observation; one below zero, by a clock that was set back, counts as zero."""
        value = max(0.0, value)
        bound = str(histogram.bound_of(value))
        self._add(histogram.name, {**labels, BUCKET: bound}, 1.0)
        self._add(histogram.name, labels, value)

    def merge(self, others: Tallies) -> None:
        """Take over what others counted."""
        for key, value in others._values.items():
            self._values[key] = self._values.get(key, 0.0) + value

    def rows(self) -> list[dict[str, str | float]]:
        """As the table has them, in the one order in which its rows may be locked."""
        return [
            {"name": name, "labels": labels, "value": value}
            for (name, labels), value in sorted(self._values.items())
        ]

    def _add(self, name: str, labels: Mapping[str, str], number: float) -> None:
        key = (name, json.dumps(dict(labels), sort_keys=True))
        self._values[key] = self._values.get(key, 0.0) + number


def of(session: Session) -> Tallies:
    """What the session's transaction counts, if it commits."""
    transaction = session.get_transaction() or session.begin()
    begun, counted = session.info.get(_KEY, (None, Tallies()))
    if begun is not transaction:  # the one before was rolled back
        counted = Tallies()
        session.info[_KEY] = (transaction, counted)
    assert isinstance(counted, Tallies)
    return counted


def read(session: Session) -> Iterator[tuple[str, dict[str, str], float]]:
    """Everything that was ever counted: name, labels, number."""
    for tally in session.execute(select(Tally.name, Tally.labels, Tally.value)):
        yield tally.name, json.loads(tally.labels), tally.value


@event.listens_for(Session, "before_commit")
def _write(session: Session) -> None:
    begun, counted = session.info.pop(_KEY, (None, None))
    if counted and begun is session.get_transaction():
        _upsert(session, counted.rows())


def _upsert(session: Session, rows: Iterable[dict[str, str | float]]) -> None:
    insert = INSERT[session.get_bind().dialect.name](Tally).values(list(rows))
    session.execute(
        insert.on_conflict_do_update(
            index_elements=[Tally.name, Tally.labels],
            set_={"value": Tally.value + insert.excluded.value},
        )
    )
