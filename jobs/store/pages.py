"""Cursor pages: rows after the row an id names, in a total order, with whether more follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    rows: list[Row]
    has_more: bool


def page(
    session: Session,
    query: Select[Row],
    *,
    keys: tuple[Any, ...],
    after: tuple[Any, ...] | None,
    limit: int,
    newest_first: bool = True,
) -> Page[Row]:
    """The next `limit` rows beyond `after`, ordered by `keys` (the last of them unique)."""
    if after is not None:
        here = tuple_(*keys)
        query = query.where(here < tuple_(*after) if newest_first else here > tuple_(*after))
    order = [key.desc() if newest_first else key.asc() for key in keys]
    rows = list(session.scalars(query.order_by(*order).limit(limit + 1)))
    return Page(rows=rows[:limit], has_more=len(rows) > limit)
