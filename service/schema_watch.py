"""Whether the database still fits this code: it may be migrated past a service that runs."""

from __future__ import annotations

import time

from sqlalchemy import Engine

from jobs.errors import SchemaMismatch, Unavailable
from jobs.schema import check_schema

EVERY_SECONDS = 5.0


class SchemaWatch:
    """Asks now and then, on behalf of whoever comes first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked_at = float("-inf")
        self._fault: str | None = None

    def check(self) -> None:
        """Raise Unavailable, with the versions, where this code must not use the database."""
        if time.monotonic() - self._asked_at >= EVERY_SECONDS:
            self._fault = self._ask()
            self._asked_at = time.monotonic()
        if self._fault is not None:
            raise Unavailable(
                f"This service is being updated; send it again soon. {self._fault}",
                code="schema_mismatch",
            )

    def _ask(self) -> str | None:
        try:
            check_schema(self._engine)
        except SchemaMismatch as mismatch:
            return str(mismatch)
        return None
